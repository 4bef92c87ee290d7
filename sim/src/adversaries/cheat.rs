//! What each node that cheats in answers does, when, and what it gains.

use super::COMPUTE;
use super::measured::Kind;
use crate::random::Random;
use ol_protocol::parameters::{AuditRule, EscrowRule, Split};

/// Honest tasks of a sleeper.
const SLEEPER_TASKS: u64 = 500;

/// The chance of an audit up to which a careful cheat dares: twice the floor.
const DARING_PPM: u32 = 20_000;

/// Identities of a Sybil group.
const SYBILS: usize = 10;

/// Share of the prompts that were asked before, in the copier's favour.
const REPEATED: f64 = 0.2;

/// Pay of the shortest task, one token: of 74.
const TINY: f64 = 1.0 / 74.0;

/// A cheat in answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cheat {
    Honest,
    SmallModel,
    Seldom,
    FourBit,
    EightBit,
    WrongSeed,
    CachedAnswers,
    Truncation,
    PromptSwap,
    TemperatureShift,
    PartialSubstitution,
    GatedSubstitution,
    Forgery,
    Copier,
    Sleeper,
    Repenter,
    Whitewasher,
    CachedWhitewasher,
    PatientWhitewasher,
    Sybils,
    SelfDealingInTen,
    SelfDealingInHundred,
    FifthFriendsReferee,
    HalfFriendsReferee,
    FifthFriendsPanel,
    HalfFriendsPanel,
}

/// What the cheat knows of its own standing: the log is public.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// Tasks of this identity.
    pub(super) tasks: u64,
    /// Chance that its next result is audited.
    pub(super) chance_ppm: u32,
    /// Honest tasks since it was caught.
    pub(super) since_caught: Option<u64>,
}

/// A cheated answer. Money in parts of an honest task's pay.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Deed {
    /// How it was made.
    pub(super) kind: Kind,
    /// What is paid for it, if it stands.
    pub(super) pay: f64,
    /// Share of the computation that it does without.
    saved: f64,
    /// Gained elsewhere by it.
    aside: f64,
}

impl Deed {
    const fn saving(kind: Kind, saved: f64) -> Self {
        Self { kind, pay: 1.0, saved, aside: 0.0 }
    }

    /// What it costs, less what it brings elsewhere.
    pub(super) fn cost(&self) -> f64 {
        COMPUTE * (1.0 - self.saved) - self.aside
    }

    /// What it brings over an honest answer, if it stands.
    pub(super) fn gain(&self) -> f64 {
        (self.pay - self.cost()) - (1.0 - COMPUTE)
    }
}

/// Who has to confirm that a result is bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Court {
    /// The network's referee: the rule.
    Referee,
    /// Four more auditors, all of them: what a network without a referee would need.
    Panel,
}

/// What it does after a task.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Next {
    /// Goes on.
    Stay,
    /// Begins anew under another key, and loses what is in escrow.
    Leave,
    /// The same, after it bought so many tiny tasks that what was in escrow comes out.
    Ransom {
        /// Of so many nodes one is its own.
        nodes: f64,
    },
}

impl Cheat {
    pub(super) const ALL: [Self; 26] = [
        Self::Honest,
        Self::SmallModel,
        Self::Seldom,
        Self::FourBit,
        Self::EightBit,
        Self::WrongSeed,
        Self::CachedAnswers,
        Self::Truncation,
        Self::PromptSwap,
        Self::TemperatureShift,
        Self::PartialSubstitution,
        Self::GatedSubstitution,
        Self::Forgery,
        Self::Copier,
        Self::Sleeper,
        Self::Repenter,
        Self::Whitewasher,
        Self::CachedWhitewasher,
        Self::PatientWhitewasher,
        Self::Sybils,
        Self::SelfDealingInTen,
        Self::SelfDealingInHundred,
        Self::FifthFriendsReferee,
        Self::HalfFriendsReferee,
        Self::FifthFriendsPanel,
        Self::HalfFriendsPanel,
    ];

    /// Those that cheat in every task and go on when they are caught.
    #[cfg(test)]
    pub(super) const ALWAYS: [Self; 11] = [
        Self::SmallModel,
        Self::FourBit,
        Self::EightBit,
        Self::WrongSeed,
        Self::CachedAnswers,
        Self::Truncation,
        Self::PromptSwap,
        Self::TemperatureShift,
        Self::PartialSubstitution,
        Self::GatedSubstitution,
        Self::Forgery,
    ];

    /// Whether the next task is cheated, and how.
    pub(super) fn tempted(self, seen: &Seen, random: &mut Random) -> Option<Deed> {
        // Half the layers are half the work.
        let small = Deed::saving(Kind::SmallModel, 0.5);
        let is_known = seen.tasks >= u64::from(AuditRule::DEFAULT.newcomer_tasks);
        let is_unblemished = seen.since_caught.is_none();
        let after = |dares: bool, deed: Deed| dares.then_some(deed);
        match self {
            Self::Honest => None,
            Self::SmallModel
            | Self::FifthFriendsReferee
            | Self::HalfFriendsReferee
            | Self::FifthFriendsPanel
            | Self::HalfFriendsPanel => Some(small),
            Self::Seldom => after(random.happens(0.1), small),
            // A decoded token reads all weights once: a quarter of the bytes of 16 bits, or half of them, and all other work.
            Self::FourBit => Some(Deed::saving(Kind::FourBit, 0.6)),
            Self::EightBit => Some(Deed::saving(Kind::EightBit, 0.4)),
            // Saves nothing by itself.
            Self::WrongSeed => Some(Deed::saving(Kind::WrongSeed, 0.0)),
            Self::CachedAnswers => Some(Deed::saving(Kind::Cached, 1.0)),
            // Sixteen tokens of 74 are paid and computed.
            Self::Truncation => {
                let pay = 16.0 * TINY;
                Some(Deed { pay, ..Deed::saving(Kind::Truncated, 1.0 - pay) })
            }
            // Whoever's text it slips in pays a tenth of a task for it.
            Self::PromptSwap => Some(Deed { aside: 0.1, ..Deed::saving(Kind::OtherPrompt, 0.0) }),
            Self::TemperatureShift => Some(Deed::saving(Kind::WarmerSampling, 0.0)),
            // A tenth of the steps at a tenth of their cost; the model reads these tokens in one go.
            Self::PartialSubstitution => Some(Deed::saving(Kind::OneInTen, 0.09)),
            // A quarter of the steps.
            Self::GatedSubstitution => Some(Deed::saving(Kind::Gated, 0.22)),
            // A draft at a tenth of the cost, and one prefill of all: 0.21, as for an audit.
            Self::Forgery => Some(Deed::saving(Kind::Forged, 0.69)),
            // Another node of the operator answered the same prompt, with another seed.
            Self::Copier => after(random.happens(REPEATED), Deed::saving(Kind::WrongSeed, 1.0)),
            Self::Sleeper => after(seen.tasks >= SLEEPER_TASKS, small),
            Self::Repenter => after(seen.chance_ppm <= DARING_PPM, small),
            Self::CachedWhitewasher => after(is_known, Deed::saving(Kind::Cached, 1.0)),
            Self::Whitewasher
            | Self::PatientWhitewasher
            | Self::Sybils
            | Self::SelfDealingInTen
            | Self::SelfDealingInHundred => after(is_known && is_unblemished, small),
        }
    }

    /// What it does after a task, with the honest tasks since it was caught.
    pub(super) fn next(self, since_caught: Option<u64>) -> Next {
        let Some(honest) = since_caught else { return Next::Stay };
        match self {
            Self::Whitewasher | Self::CachedWhitewasher => Next::Leave,
            Self::PatientWhitewasher if honest >= u64::from(EscrowRule::DEFAULT.tasks) => Next::Leave,
            Self::SelfDealingInTen => Next::Ransom { nodes: 10.0 },
            Self::SelfDealingInHundred => Next::Ransom { nodes: 100.0 },
            Self::PatientWhitewasher
            | Self::Honest
            | Self::SmallModel
            | Self::Seldom
            | Self::FourBit
            | Self::EightBit
            | Self::WrongSeed
            | Self::CachedAnswers
            | Self::Truncation
            | Self::PromptSwap
            | Self::TemperatureShift
            | Self::PartialSubstitution
            | Self::GatedSubstitution
            | Self::Forgery
            | Self::Copier
            | Self::Sleeper
            | Self::Repenter
            | Self::Sybils
            | Self::FifthFriendsReferee
            | Self::HalfFriendsReferee
            | Self::FifthFriendsPanel
            | Self::HalfFriendsPanel => Next::Stay,
        }
    }

    /// Keys that share one machine.
    pub(super) const fn identities(self) -> usize {
        if matches!(self, Self::Sybils) { SYBILS } else { 1 }
    }

    /// Share of the auditors that pass whatever it does.
    pub(super) const fn friends(self) -> f64 {
        match self {
            Self::FifthFriendsReferee | Self::FifthFriendsPanel => 0.2,
            Self::HalfFriendsReferee | Self::HalfFriendsPanel => 0.5,
            _ => 0.0,
        }
    }

    /// Who confirms what an auditor found.
    pub(super) const fn court(self) -> Court {
        if matches!(self, Self::FifthFriendsPanel | Self::HalfFriendsPanel) { Court::Panel } else { Court::Referee }
    }

    /// Its name in tables.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Honest => "honest",
            Self::SmallModel => "small model",
            Self::Seldom => "small model in one task of ten",
            Self::FourBit => "requantised, 4 bits",
            Self::EightBit => "requantised, 8 bits",
            Self::WrongSeed => "wrong seed",
            Self::CachedAnswers => "cached answers",
            Self::Truncation => "truncation",
            Self::PromptSwap => "prompt swap",
            Self::TemperatureShift => "temperature shift",
            Self::PartialSubstitution => "partial substitution",
            Self::GatedSubstitution => "confidence-gated substitution",
            Self::Forgery => "teacher-forced forgery",
            Self::Copier => "copier",
            Self::Sleeper => "sleeper",
            Self::Repenter => "sleeper that repents",
            Self::Whitewasher => "whitewasher",
            Self::CachedWhitewasher => "whitewasher with cached answers",
            Self::PatientWhitewasher => "patient whitewasher",
            Self::Sybils => "Sybil group of ten",
            Self::SelfDealingInTen => "self-dealing operator, a tenth of the nodes",
            Self::SelfDealingInHundred => "self-dealing operator, a hundredth of the nodes",
            Self::FifthFriendsReferee => "a fifth of the auditors collude, referee",
            Self::HalfFriendsReferee => "half of the auditors collude, referee",
            Self::FifthFriendsPanel => "a fifth of the auditors collude, no referee",
            Self::HalfFriendsPanel => "half of the auditors collude, no referee",
        }
    }

    /// What it does, in a sentence.
    pub(super) const fn what(self) -> &'static str {
        match self {
            Self::Honest => "Computes what it is asked.",
            Self::SmallModel => "Runs half of the layers in every task and goes on when it is caught.",
            Self::Seldom => "Runs half of the layers in a tenth of its tasks.",
            Self::FourBit => "Runs weights of four bits in every task.",
            Self::EightBit => "Runs weights of eight bits in every task.",
            Self::WrongSeed => "Samples with a seed of its own.",
            Self::CachedAnswers => "Answers what it answered last, whatever is asked.",
            Self::Truncation => "Ends after sixteen tokens.",
            Self::PromptSwap => {
                "Puts a system prompt of its own before the request, for a tenth of a task's pay from elsewhere."
            }
            Self::TemperatureShift => "Samples at 1.1 times the temperature.",
            Self::PartialSubstitution => "Lets a draft choose one token of ten.",
            Self::GatedSubstitution => "Lets a draft choose where its perturbed choice is clear.",
            Self::Forgery => "Lets a draft answer, and reports the honest model's log-probabilities of it.",
            Self::Copier => {
                "Sends what another of its nodes answered to the same prompt, in the fifth of its tasks where there is one."
            }
            Self::Sleeper => "Computes honestly 500 times, then runs half of the layers for good.",
            Self::Repenter => {
                "Runs half of the layers only while its chance of an audit, which the log tells, is 2 % at most."
            }
            Self::Whitewasher => {
                "Computes honestly as a newcomer, then runs half of the layers, and takes a new key when it is caught."
            }
            Self::CachedWhitewasher => "The same with cached answers, which cost nothing.",
            Self::PatientWhitewasher => "A whitewasher that works honestly for 180 tasks before it takes a new key.",
            Self::Sybils => {
                "Ten keys take turns; each is honest as a newcomer, then runs half of the layers until it is caught once."
            }
            Self::SelfDealingInTen | Self::SelfDealingInHundred => {
                "A whitewasher that buys tiny tasks until enough reach its own node, so that its escrow comes out, before it takes a new key."
            }
            Self::FifthFriendsReferee | Self::HalfFriendsReferee => {
                "Runs half of the layers; so many auditors pass it, the others' accusations are confirmed by the referee."
            }
            Self::FifthFriendsPanel | Self::HalfFriendsPanel => {
                "The same where no referee is, and two of a panel of three decide about what was accused."
            }
        }
    }

    /// What the row takes for granted, and leaves out.
    pub(super) const fn limits(self) -> &'static str {
        match self {
            Self::Honest => "Honest margins are distributed as calibrated; a verifier's own faults are left out.",
            Self::WrongSeed | Self::TemperatureShift => "Saves nothing by itself, so it has no motive here.",
            Self::Truncation => "Pay is by tokens: a node that has as many tasks as it can do gains nothing either.",
            Self::PromptSwap => "What the swap is worth elsewhere is assumed.",
            Self::FourBit | Self::EightBit => {
                "The saving is that of a variant of sixteen bits, the margins those of one of four."
            }
            Self::Copier => {
                "The share of repeated prompts is assumed; copies of other operators' answers would need their texts."
            }
            Self::Repenter | Self::Sybils => {
                "A fault costs the failed result's pay and 15 s, and if the task was public what is in escrow: as many tasks as the rule says. A \
                 busier node has an hour's work there."
            }
            Self::SelfDealingInTen | Self::SelfDealingInHundred => {
                "A tenant can't choose its node, so it buys as many tiny tasks for others; requests have no least price here."
            }
            Self::FifthFriendsPanel | Self::HalfFriendsPanel => "A panel takes no escrow.",
            Self::FifthFriendsReferee | Self::HalfFriendsReferee => {
                "The referee is honest; a gateway that picks auditors unfairly is another row."
            }
            Self::SmallModel
            | Self::Seldom
            | Self::CachedAnswers
            | Self::PartialSubstitution
            | Self::GatedSubstitution
            | Self::Forgery
            | Self::Sleeper
            | Self::Whitewasher
            | Self::CachedWhitewasher
            | Self::PatientWhitewasher => {
                "Thirty-two measured answers of one small model stand for all; savings are assumed."
            }
        }
    }
}

/// Tiny tasks that an operator with one of `nodes` nodes buys until `own` were its own, less what those pay it.
pub(super) fn ransom(nodes: f64, own: f64) -> f64 {
    let price = TINY * 1e4 / f64::from(Split::DEFAULT.node_bp);
    own * nodes * price - own * TINY * (1.0 - COMPUTE)
}
