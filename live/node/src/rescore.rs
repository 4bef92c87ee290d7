//! Running a model over evidence against a node: does it give what the node committed to?

use crate::content;
use crate::measured::{Measured, own};
use ol_engine::{Engine, Scores};
use ol_net::frame::{Generate, Payload};
use ol_protocol::bytes;
use ol_protocol::commitment::Commitment;
use ol_protocol::digest::prompt_digest;
use ol_protocol::evidence::Evidence;
use ol_protocol::key::Signature;
use ol_protocol::parameters::AuditRule;
use ol_protocol::seed::seed_digest;
use ol_protocol::verdict::{Level, Verdict};
use ol_protocol::{AuditId, NodeId, OperatorId, TokenCount};
use ol_trust::{Judgement, Odds, judge};
use std::sync::mpsc::channel;

/// Why evidence can't be rescored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not what the node committed to.
    #[error("the evidence is not what the node committed to")]
    Unopened,
    /// The engine is another variant.
    #[error(
        "the node claims variant {wanted}, and this model is variant {here}: name the file that the node claims to run"
    )]
    OtherVariant {
        /// The node's.
        wanted: ol_protocol::VariantId,
        /// The engine's.
        here: ol_protocol::VariantId,
    },
    /// The sampling parameters are in no form that an engine takes.
    #[error("the sampling parameters can't be read")]
    Parameters(#[from] bytes::Error),
    /// They are none that an engine takes.
    #[error("the sampling parameters can't be used")]
    Content(#[from] content::Error),
    /// The engine can't score it.
    #[error("the model can't score this")]
    Engine(#[from] ol_engine::Error),
}

/// What scoring found.
#[derive(Debug)]
pub struct Rescored {
    /// Whether the variant gives such an output; the rule is settlement's.
    pub judgement: Judgement,
    /// For each output token that the attempt added, how far in nats it is from being the one to choose.
    pub margins: Vec<f32>,
}

/// Scores evidence with an engine of the variant that the node claims, and judges it as settlement judges the referee's verdict. One prefill over
/// prompt and output.
pub fn rescore(
    engine: &dyn Engine,
    rule: &AuditRule,
    tolerance_micro: u32,
    commitment: &Commitment,
    evidence: &Evidence,
) -> Result<Rescored, Error> {
    if !evidence.opens(commitment) {
        return Err(Error::Unopened);
    }
    let here = content::variant(engine.variant()).id();
    if here != commitment.variant {
        return Err(Error::OtherVariant { wanted: commitment.variant, here });
    }
    let generate = Generate::from_parameters(&evidence.parameters)?;
    let payload = Payload::Tokens { ids: evidence.prompt.clone(), generate };
    let tolerance = tolerance_micro as f32 / 1e6;
    let task = content::score(&payload, evidence.seed.0, evidence.output.clone(), commitment.finish, tolerance)?;
    let (sender, receiver) = channel();
    // The receiver waits below: it can't be gone.
    engine.score(task, Box::new(move |found| drop(sender.send(found))));
    let scores = receiver.recv().unwrap_or(Err(ol_engine::Error::Ended))?;
    let verdict = verdict(commitment, evidence, &scores);
    let judgement = judge(rule, Some(&Odds::NONE), commitment, &verdict);
    Ok(Rescored { judgement, margins: own(&scores, commitment.resumed_from.0).to_vec() })
}

// As the referee says it, but for the signature.
fn verdict(commitment: &Commitment, evidence: &Evidence, scores: &Scores) -> Verdict {
    let Evidence { salt, template, parameters, .. } = evidence;
    let measured = Measured::text(salt, &evidence.output, commitment.resumed_from.0, commitment.finish, scores);
    Verdict {
        network: commitment.network,
        audit: AuditId([0; 16]),
        auditor: NodeId([0; 32]),
        operator: OperatorId([0; 32]),
        level: Level::Referee,
        variant: commitment.variant,
        prompt: prompt_digest(salt, &measured.prompt_ids, template, parameters),
        seed: seed_digest(salt, &evidence.seed),
        output: measured.output,
        log_probs: content::log_probs_digest(salt, &scores.log_prob_bytes),
        prompt_tokens: TokenCount(u32::try_from(measured.prompt_ids.len()).unwrap_or(u32::MAX)),
        output_tokens: TokenCount(measured.output_tokens),
        scored_tokens: TokenCount(measured.scored),
        worst_margin_micro: measured.worst_micro,
        margin_sum_micro: measured.sum_micro,
        finish_fits: measured.finish_fits,
        signature: Signature([0; 64]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_engine::{Cheat, Event, Flow, GenerateTask, Message, Model, Options, Prompt, Role, Sampling, Seed, start};
    use ol_protocol::digest::output_root;
    use ol_protocol::record::AttemptId;
    use ol_protocol::{Digest, Epoch, GatewayId, Micros, NetworkId, Salt, TaskId, VariantId};
    use std::sync::Arc;

    const TASK: TaskId = TaskId([5; 16]);
    const SALT: Salt = Salt([6; 32]);
    const LONGEST: u32 = 24;

    fn engine(cheat: Option<Cheat>) -> Arc<dyn Engine> {
        start(Arc::new(Model::tiny(1).unwrap()), Options { slots: 1, threads: 1, cheat })
    }

    // An answer of that engine, as its node commits to it and as it is opened.
    fn answered(by: &dyn Engine) -> (Commitment, Evidence) {
        let sampling = Sampling { temperature: 1.0, ..Sampling::GREEDY };
        let stop = vec!["never said".to_owned()];
        let messages = vec![Message { role: Role::User, content: "Tell me about ports.".to_owned() }];
        let task = GenerateTask {
            prompt: Prompt::Chat(messages),
            sampling,
            seed: Seed([7; 32]),
            max_tokens: LONGEST,
            stop: stop.clone(),
            top_logprobs: 0,
            resume: Vec::new(),
            scope: None,
        };
        let (sender, receiver) = channel();
        by.generate(task, Box::new(move |event| if sender.send(event).is_ok() { Flow::Continue } else { Flow::Stop }));
        let (mut prompt, mut output, mut finish) = (Vec::new(), Vec::new(), None);
        for event in receiver {
            match event {
                Event::Started { prompt_ids, .. } => prompt = prompt_ids.to_vec(),
                Event::Tokens(tokens) => output.extend(tokens.iter().map(|token| token.id)),
                Event::Finished(end) => finish = Some(content::finish(end.reason)),
                Event::Failed(error) => panic!("{error}"),
            }
        }
        let mut parameters = sampling.to_bytes().to_vec();
        parameters.extend_from_slice(&LONGEST.to_le_bytes());
        parameters.extend_from_slice(&(stop[0].len() as u32).to_le_bytes());
        parameters.extend_from_slice(stop[0].as_bytes());
        let subject = AttemptId { task: TASK, attempt: 0 };
        let template = b"chat".to_vec();
        let evidence = Evidence { subject, salt: SALT, seed: Seed([7; 32]), template, parameters, prompt, output };
        let commitment = Commitment {
            network: NetworkId([1; 32]),
            gateway: GatewayId([2; 32]),
            node: NodeId([3; 32]),
            operator: OperatorId([4; 32]),
            task: TASK,
            attempt: 0,
            epoch: Epoch(1),
            variant: content::variant(by.variant()).id(),
            sampler_version: 1,
            prompt: prompt_digest(&SALT, &evidence.prompt, &evidence.template, &evidence.parameters),
            seed: seed_digest(&SALT, &evidence.seed),
            output: output_root(&SALT, &evidence.output),
            log_probs: Digest([0; 32]),
            finish: finish.unwrap(),
            prompt_tokens: TokenCount(evidence.prompt.len() as u32),
            output_tokens: TokenCount(evidence.output.len() as u32),
            resumed_from: TokenCount(0),
            first_token: Micros(0),
            total: Micros(0),
        };
        (commitment, evidence)
    }

    fn judged(commitment: &Commitment, evidence: &Evidence) -> Result<Rescored, Error> {
        rescore(engine(None).as_ref(), &AuditRule::DEFAULT, 50_000, commitment, evidence)
    }

    #[test]
    fn an_honest_answer_is_cleared_and_a_cheats_is_not() {
        let (commitment, evidence) = answered(engine(None).as_ref());
        let rescored = judged(&commitment, &evidence).unwrap();
        assert!(matches!(rescored.judgement, Judgement::Fits { .. }), "{rescored:?}");
        assert_eq!(rescored.margins, vec![0.0; evidence.output.len()]);
        let (commitment, evidence) = answered(engine(Some(Cheat::SmallModel)).as_ref());
        let rescored = judged(&commitment, &evidence).unwrap();
        assert!(matches!(rescored.judgement, Judgement::Failed(_)), "{rescored:?}");
    }

    #[test]
    fn evidence_that_opens_nothing_or_of_another_model_is_refused() {
        let (commitment, evidence) = answered(engine(None).as_ref());
        let mut framed = evidence.clone();
        framed.output[0] ^= 1;
        assert!(matches!(judged(&commitment, &framed), Err(Error::Unopened)));
        let other = Commitment { variant: VariantId([9; 32]), ..commitment };
        assert!(matches!(judged(&other, &evidence), Err(Error::OtherVariant { .. })));
    }
}
