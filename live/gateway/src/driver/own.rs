//! Tasks of the network's own: who asks for them, and with which prompts. When, and like which task, is the machine's to say.

use super::Handle;
use crate::backend::{Backend as _, Generate, Message, Payload, Reply, ResponseDigest, Role, Submission};
use crate::refusal::Refusal;
use crate::routes::fresh_task;
use ol_net::frame;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::sampler::Sampling;
use ol_protocol::variant::Variant;
use ol_protocol::{Scope, TenantId};
use ol_sched::{Tier, Where};
use serde::Deserialize;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// The file in a gateway's folder that the network's own prompts are in, if its operator has any: a line for each conversation, as in files that models are
/// tuned with.
pub const PROMPTS: &str = "own-prompts.jsonl";

/// Bytes of that file.
const FILE_MAX: u64 = 16 << 20;

/// Public conversations that are remembered, those of one tenant, and bytes of one.
const SEEN_MAX: usize = 256;
const SEEN_OF_TENANT_MAX: usize = 16;
const BYTES_MAX: usize = 64 << 10;

/// Tasks of the network's own at a time: one in a thousand of those that a gateway has running at most.
const RUNNING_MAX: usize = 16;

/// What the loop tells whoever asks for them.
pub(super) enum Told {
    /// A tenant lets this become public.
    Seen { tenant: TenantId, payload: frame::Payload },
    /// A task is wanted, of this variant, with these settings and in this scope.
    Wanted { variant: Box<Variant>, like: frame::Payload, scope: Scope },
}

/// Why the file of prompts can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        cause: std::io::Error,
    },
    /// It is too long.
    #[error("{path} is longer than {} MiB: keep a part of it", FILE_MAX >> 20)]
    Long {
        /// The file.
        path: PathBuf,
    },
    /// A line that is no conversation.
    #[error(
        "line {line} of {path} is no conversation: expected {{\"messages\": [{{\"role\": \"user\", \"content\": \"...\"}}]}}, up to 64 KiB"
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Which, from 1.
        line: usize,
    },
}

#[derive(Deserialize)]
struct Line {
    messages: Vec<Spoken>,
}

#[derive(Deserialize)]
struct Spoken {
    role: Speaker,
    content: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Speaker {
    System,
    User,
    Assistant,
}

/// Conversations to ask once more: those of the operator's file, and what tenants let become public since the gateway began.
#[derive(Debug, Default)]
pub(super) struct Prompts {
    given: Vec<Vec<Message>>,
    seen: VecDeque<(TenantId, Vec<Message>)>,
}

impl Prompts {
    /// Those of the folder's file, if there is one.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let path = folder.join(PROMPTS);
        let length = match std::fs::metadata(&path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(cause) => return Err(Error::Read { path, cause }),
        };
        if length > FILE_MAX {
            return Err(Error::Long { path });
        }
        let text = std::fs::read_to_string(&path).map_err(|cause| Error::Read { path: path.clone(), cause })?;
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let read = |(at, line)| conversation(line).ok_or_else(|| Error::Line { path: path.clone(), line: at + 1 });
        Ok(Self { given: lines.map(read).collect::<Result<_, _>>()?, seen: VecDeque::new() })
    }

    fn remember(&mut self, tenant: TenantId, payload: frame::Payload) {
        let messages: Vec<Message> = match payload {
            frame::Payload::Chat { messages, .. } => messages.into_iter().filter_map(spoken).collect(),
            frame::Payload::Text { prompt, .. } => vec![Message { role: Role::User, content: prompt }],
            frame::Payload::Tokens { .. } | frame::Payload::Embed { .. } => return,
        };
        if !is_usable(&messages) {
            return;
        }
        // The newest come first.
        let of_tenant = |(_, (of, _)): &(usize, &(TenantId, Vec<Message>))| *of == tenant;
        let too_many = self.seen.iter().enumerate().filter(of_tenant).nth(SEEN_OF_TENANT_MAX - 1).map(|(at, _)| at);
        too_many.map(|at| self.seen.remove(at));
        self.seen.truncate(SEEN_MAX - 1);
        self.seen.push_front((tenant, messages));
    }

    // Each once. A tenant's under another tenant's instructions, where there are any, so that a node has not been asked just the same; the operator's as they are.
    fn take(&mut self, chance: [u64; 2]) -> Option<Vec<Message>> {
        let index = |chance: u64, length: usize| usize::try_from(chance.checked_rem(length as u64)?).ok();
        let at = index(chance[0], self.given.len() + self.seen.len())?;
        if at < self.given.len() {
            return Some(self.given.swap_remove(at));
        }
        let (tenant, asked) = self.seen.remove(at - self.given.len())?;
        let is_system = |message: &&Message| message.role == Role::System;
        let others = self.seen.iter().filter(|(of, messages)| *of != tenant && messages.iter().any(|m| is_system(&m)));
        let others: Vec<&Vec<Message>> = others.map(|(_, messages)| messages).collect();
        let instructions = index(chance[1], others.len()).and_then(|at| others.get(at)).copied().unwrap_or(&asked);
        let system = instructions.iter().filter(is_system);
        Some(system.chain(asked.iter().filter(|message| !is_system(message))).cloned().collect())
    }
}

fn conversation(line: &str) -> Option<Vec<Message>> {
    let Line { messages } = serde_json::from_str(line).ok()?;
    let role = |speaker| match speaker {
        Speaker::System => Role::System,
        Speaker::User => Role::User,
        Speaker::Assistant => Role::Assistant,
    };
    let messages: Vec<Message> = messages
        .into_iter()
        .map(|Spoken { role: speaker, content }| Message { role: role(speaker), content })
        .collect();
    is_usable(&messages).then_some(messages)
}

fn is_usable(messages: &[Message]) -> bool {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    messages.iter().any(|message| message.role != Role::System) && bytes <= BYTES_MAX
}

fn spoken(message: frame::Message) -> Option<Message> {
    let role = match message.role.as_str() {
        "system" => Role::System,
        "user" => Role::User,
        "assistant" => Role::Assistant,
        _ => return None,
    };
    Some(Message { role, content: message.content })
}

/// Asks for them, as a tenant would, until the gateway's loop is gone.
pub(super) async fn ask(handle: Handle, mut prompts: Prompts, mut told: mpsc::Receiver<Told>) {
    let mut running = JoinSet::new();
    while let Some(told) = told.recv().await {
        while running.try_join_next().is_some() {}
        match told {
            Told::Seen { tenant, payload } => prompts.remember(tenant, payload),
            Told::Wanted { .. } if running.len() >= RUNNING_MAX => {}
            Told::Wanted { variant, like, scope } => match submission(&handle, &mut prompts, *variant, like) {
                Ok(Some(submission)) => drop(running.spawn(answer(handle.clone(), scope, submission))),
                Ok(None) => {
                    tracing::debug!("the network has no prompts of its own, and no tenant lets one become public")
                }
                Err(refusal) => tracing::warn!(%refusal, "a task of the network's own was not made"),
            },
        }
    }
}

fn submission(
    handle: &Handle,
    prompts: &mut Prompts,
    variant: Variant,
    like: frame::Payload,
) -> Result<Option<Submission>, Refusal> {
    let task = fresh_task()?;
    // Ten bytes of the id are chance.
    let number = |bytes: [u8; 4]| u64::from(u32::from_le_bytes(bytes));
    let [.., a, b, c, d, e, f, g, h] = task.0;
    let Some(messages) = prompts.take([number([a, b, c, d]), number([e, f, g, h])]) else { return Ok(None) };
    let (payload, generate) = match like {
        frame::Payload::Chat { generate, .. } => (Payload::Chat(messages), generate),
        frame::Payload::Text { generate, .. } => {
            let last = messages.into_iter().next_back().map(|message| message.content);
            (Payload::Text(last.unwrap_or_default()), generate)
        }
        frame::Payload::Tokens { .. } | frame::Payload::Embed { .. } => return Ok(None),
    };
    let frame::Generate { temperature, top_p, top_k, min_p, max_tokens, top_logprobs, .. } = generate;
    let generate = Generate {
        sampling: Sampling { temperature, top_p, top_k, min_p },
        max_tokens: Some(max_tokens),
        // Those of the tenant are its words.
        stop: Vec::new(),
        top_logprobs: top_logprobs.checked_sub(1).and_then(|n| u8::try_from(n).ok()),
        client_seed: None,
    };
    let request = digest(Domain::Request, &[b"own", &task.0]);
    Ok(Some(Submission {
        tenant: handle.shared.genesis.own_tenant(),
        task,
        model: variant.model,
        quantisation: Some(variant.quantisation),
        payload,
        generate: Some(generate),
        request_digest: request,
        canonical: request,
        body_bytes: 0,
        deadline: None,
        max_price: None,
        quote: None,
        public: true,
        min_trust_ppm: None,
        place: Where::Anywhere,
        tier: Tier::Standard,
    }))
}

// Takes an answer to its end, as a client would.
async fn answer(handle: Handle, scope: Scope, submission: Submission) {
    let mut running = match handle.submit_within(Some(scope), submission).await {
        Ok(running) => running,
        Err(refusal) => return tracing::debug!(%refusal, "a task of the network's own is not served"),
    };
    let (mut text, mut complete) = (String::new(), false);
    while let Some(reply) = running.events.recv().await {
        match reply {
            Reply::Started { .. } | Reply::Released => {}
            Reply::Delta { text: more, .. } => text.push_str(&more),
            Reply::Finished(_) => {
                complete = true;
                break;
            }
            Reply::Failed(refusal) => {
                tracing::debug!(%refusal, "a task of the network's own has no answer");
                break;
            }
        }
    }
    let digest = digest(Domain::Response, &[text.as_bytes()]);
    handle.closed(running.task, ResponseDigest { digest, body_bytes: text.len(), complete });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    fn chat(messages: &[(&str, &str)]) -> frame::Payload {
        let say = |(role, content): &(&str, &str)| frame::Message { role: (*role).into(), content: (*content).into() };
        let generate = frame::Generate {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            max_tokens: 8,
            stop: Vec::new(),
            top_logprobs: 0,
        };
        frame::Payload::Chat { messages: messages.iter().map(say).collect(), generate }
    }

    #[test]
    fn a_tenants_words_are_asked_once_more_under_anothers_instructions() {
        let [one, two] = [TenantId([1; 16]), TenantId([2; 16])];
        let mut prompts = Prompts::default();
        assert_eq!(prompts.take([0, 0]), None);
        prompts.remember(one, chat(&[("system", "be brief"), ("user", "one")]));
        prompts.remember(two, chat(&[("system", "rhyme"), ("user", "two")]));
        prompts.remember(two, chat(&[("system", "only this")]));
        prompts.remember(two, chat(&[("user", &"x".repeat(BYTES_MAX + 1))]));
        let mixed = [message(Role::System, "be brief"), message(Role::User, "two")];
        assert_eq!(prompts.take([0, 1]).unwrap(), mixed);
        // Nobody else's are left.
        assert_eq!(prompts.take([9, 9]).unwrap(), [message(Role::System, "be brief"), message(Role::User, "one")]);
        assert_eq!(prompts.take([0, 0]), None, "each once");
    }

    #[test]
    fn no_tenant_fills_the_memory_of_prompts() {
        let mut prompts = Prompts::default();
        prompts.remember(TenantId([1; 16]), chat(&[("user", "mine")]));
        (0..2 * SEEN_MAX).for_each(|n| prompts.remember(TenantId([2; 16]), chat(&[("user", &n.to_string())])));
        assert_eq!(prompts.seen.len(), SEEN_OF_TENANT_MAX + 1);
        assert_eq!(prompts.seen[0].1, [message(Role::User, "511")]);
        (3..=255).for_each(|n| prompts.remember(TenantId([n; 16]), chat(&[("user", "more")])));
        (3..=255).for_each(|n| prompts.remember(TenantId([n; 16]), chat(&[("user", "more")])));
        assert_eq!(prompts.seen.len(), SEEN_MAX);
    }

    #[test]
    fn a_file_of_prompts_is_read_whole_or_refused_by_its_line() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Prompts::open(folder.path()).unwrap().given.is_empty());
        let path = folder.path().join(PROMPTS);
        let good = r#"{"messages": [{"role": "system", "content": "a"}, {"role": "user", "content": "b"}]}"#;
        std::fs::write(&path, format!("{good}\n\n{good}\n")).unwrap();
        let prompts = Prompts::open(folder.path()).unwrap();
        assert_eq!(
            prompts.given,
            [[message(Role::System, "a"), message(Role::User, "b")].to_vec(), prompts.given[0].clone()]
        );
        for bad in ["no JSON", r#"{"messages": []}"#, r#"{"messages": [{"role": "tool", "content": "b"}]}"#] {
            std::fs::write(&path, format!("{good}\n{bad}\n")).unwrap();
            let error = Prompts::open(folder.path()).unwrap_err();
            assert!(error.to_string().starts_with("line 2 of "), "{error}");
        }
    }
}
