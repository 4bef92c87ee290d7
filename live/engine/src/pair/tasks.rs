//! The tasks of a measurement: conversations and settings as varied as those that nodes see.

use ol_protocol::prf::{Noise, Seed};
use ol_protocol::sampler::Sampling;

use super::{Plan, Settings};
use crate::task::{GenerateTask, Message, Prompt, Role};

/// What is asked: instructions, questions, code, other languages, numbers.
const QUESTIONS: [&str; 16] = [
    "Write a short story about a lighthouse keeper who finds a letter.",
    "Explain why the sky is blue to a child.",
    "List ten uses of a paper clip.",
    "Write a Python function that returns the n-th Fibonacci number, with a test.",
    "Translate into French: The train to Lyon leaves at 7:45 from platform 3.",
    "What are the advantages and disadvantages of nuclear power?",
    "Erzähle mir etwas über die Geschichte von Köln.",
    "Compute 17 * 23 step by step, then 391 / 17.",
    "Give me a recipe for lentil soup for four people.",
    "Summarise the plot of Hamlet in five sentences.",
    "Write an e-mail that asks a landlord to repair the heating.",
    "请介绍一下长城。",
    "Write a poem of four lines about rain.",
    "How does a bill become law? Answer as a numbered list.",
    "Plan a day in Rome for a family with two children.",
    "Give me three names for a bakery, and a slogan for each.",
];
/// Questions whose answers are short.
const SHORT: [&str; 6] = [
    "What is the capital of Norway? Answer with one word.",
    "Is 91 a prime number? Answer yes or no.",
    "Name the largest planet. One word only.",
    "Which year did the Berlin wall fall? Only the number.",
    "Is this review positive or negative? \"The soup was cold and the waiter rude.\"",
    "Correct the spelling: \"definately\".",
];
/// Instructions ahead of a conversation.
const SYSTEMS: [&str; 5] = [
    "You are a helpful assistant.",
    "You are a patient teacher. Explain every step, and end with a question that checks whether the pupil understood.",
    "Answer in at most three sentences. Never use bullet points.",
    "You are the support desk of an online shop for garden tools. Be polite, and ask for the order number first.",
    "You are an experienced programmer. Prefer short code with types and tests over explanations.",
];
/// Texts that questions are about, each under 480 bytes.
const PASSAGES: [&str; 3] = [
    "The harbour of Aldmouth froze in the winter of 1838. For six weeks no ship came in, and the town lived on what the \
     farms inland could send by sledge. Bread was rationed from the third week on. When the ice broke, on the second \
     of March, the first ship to arrive was the brig Constance, with coal from the north and letters that had waited \
     since January. The mayor had the bells rung for an hour.",
    "Honey bees keep the brood of their hive at 35 degrees. In winter they form a ball around the queen and shiver with \
     the muscles of their wings, which burns the honey they stored. A colony needs fifteen to twenty kilograms to last \
     until spring. In summer they fetch water, spread it over the comb and fan it with their wings, so that it cools \
     the hive as it dries.",
    "Minutes of the meeting on Tuesday. Present: Ms Okafor, Mr Lindqvist, Mr Ortega. The budget of 48,000 was approved \
     with two votes to one. The new store opens on 14 June if the permit arrives before the end of May; Mr Ortega asks \
     at the town hall every Friday. The lease of the old store ends on 31 August. Ms Okafor will get three offers for \
     the move. Next meeting: 9 May, 10 a.m.",
];
/// Questions about such texts.
const ABOUT: [&str; 4] = [
    "Summarise the text above in two sentences.",
    "List all numbers and dates in the text above, each with what it stands for.",
    "Write three questions that a reader of the text above should be able to answer.",
    "Rewrite the text above for children.",
];

/// Who asks.
const NAMES: [&str; 8] = ["Ada", "Björn", "Chidi", "Dolores", "Eun-ji", "Farid", "Greta", "Hiro"];

/// Tasks of a plan.
pub(super) struct Tasks<'a> {
    pub(super) plan: &'a Plan,
}

/// Random numbers behind one task, by what they decide.
struct Dice(Noise);

impl Dice {
    fn below(&self, what: u32, count: usize) -> usize {
        self.0.word(what) as usize % count
    }

    fn one<T: Copy>(&self, what: u32, from: &[T]) -> T {
        from[self.below(what, from.len())]
    }
}

impl Tasks<'_> {
    fn seed(&self) -> Seed {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&self.plan.seed.to_le_bytes());
        Seed(seed)
    }

    fn dice(&self, case: u32) -> Dice {
        Dice(Noise::new(&self.seed(), case))
    }

    /// The task number `case`; the same for the same plan.
    pub(super) fn task(&self, case: u32) -> (Settings, GenerateTask) {
        let dice = self.dice(case);
        let settings = Settings::ALL[case as usize % Settings::ALL.len()];
        let mut seed = self.seed();
        seed.0[8..12].copy_from_slice(&case.to_le_bytes());
        let (longest, quarter) = (self.plan.tokens_max.max(1), self.plan.tokens_max.div_ceil(4).max(1));
        let task = GenerateTask {
            prompt: Prompt::Chat(conversation(&dice)),
            sampling: sampling(settings, &dice),
            seed,
            max_tokens: dice.one(0, &[longest, longest, longest, quarter]),
            stop: if dice.below(1, 8) == 0 { vec!["\n\n".to_owned()] } else { Vec::new() },
            top_logprobs: 0,
            resume: Vec::new(),
            scope: None,
        };
        (settings, task)
    }

    /// The text number `case`; the same for the same plan.
    pub(super) fn text(&self, case: u32) -> String {
        let dice = self.dice(case);
        dice.one(0, &[dice.one(1, &QUESTIONS), dice.one(1, &SHORT), dice.one(1, &PASSAGES)]).to_owned() + &signed(&dice)
    }
}

fn sampling(settings: Settings, dice: &Dice) -> Sampling {
    let temperature = dice.one(2, &[0.3, 0.5, 0.7, 0.8, 1.0, 1.0, 1.2, 1.5]);
    let open = Sampling { temperature, ..Sampling::GREEDY };
    match settings {
        Settings::Greedy => Sampling::GREEDY,
        Settings::Sampled => open,
        Settings::Truncated => {
            let (top_p, top_k, min_p) = dice.one(
                3,
                &[
                    (0.95, 0, 0.0),
                    (0.9, 0, 0.0),
                    (0.5, 0, 0.0),
                    (1.0, 40, 0.0),
                    (1.0, 5, 0.0),
                    (1.0, 0, 0.05),
                    (0.95, 40, 0.0),
                    (0.9, 100, 0.02),
                ],
            );
            Sampling { top_p, top_k, min_p, ..open }
        }
    }
}

fn conversation(dice: &Dice) -> Vec<Message> {
    let message = |role: Role, content: &str| Message { role, content: content.to_owned() };
    let user = |content: &str| message(Role::User, content);
    let question = dice.one(5, &QUESTIONS);
    let system = (dice.below(6, 3) == 0).then(|| message(Role::System, dice.one(7, &SYSTEMS)));
    let turns = match dice.below(4, 6) {
        0 | 1 => vec![user(question)],
        2 => vec![user(dice.one(5, &SHORT))],
        3 => vec![user(&format!("{}\n\n{}", dice.one(8, &PASSAGES), dice.one(9, &ABOUT)))],
        4 => vec![user(&format!("{}\n\n{}", PASSAGES.join("\n\n"), dice.one(9, &ABOUT)))],
        _ => vec![
            user(&format!("Here is a text that we will talk about.\n\n{}", dice.one(8, &PASSAGES))),
            message(Role::Assistant, "Thank you. What would you like to know about it?"),
            user("Nothing for now. Something else first."),
            message(Role::Assistant, "Of course. Please go on."),
            user(question),
        ],
    };
    let mut messages: Vec<Message> = system.into_iter().chain(turns).collect();
    // Without it the same question at temperature 0 would be the same observation again.
    if let Some(last) = messages.last_mut() {
        last.content.push_str(&signed(dice));
    }
    messages
}

// What makes a message one of its own.
fn signed(dice: &Dice) -> String {
    format!("\n\nMy name is {}, ticket {}.", dice.one(10, &NAMES), dice.below(11, 100_000))
}
