//! The loop round a machine: wall clock, bounded inbox, deadline, event log, shutdown. It decides nothing.

pub mod clock;
pub mod log;

use ol_protocol::{Machine, Timestamp};
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages that may wait for a machine. Past that, senders wait: what floods a machine is slowed, not stored.
pub const INBOX_MAX: usize = 8_192;

/// Most messages taken at a time, so that deadlines are looked at in between.
const TAKEN_AT_ONCE: usize = 256;

/// The hands of a machine: turns messages into inputs and carries out outputs. Payload stays here; the machine sees ids,
/// sizes and digests.
pub trait Hands {
    /// The machine they serve.
    type Machine: Machine;
    /// What others send it.
    type Message: Send;

    /// Turns a message into inputs.
    fn take(&mut self, now: Timestamp, message: Self::Message, inputs: &mut Vec<<Self::Machine as Machine>::Input>);

    /// Carries out an output; what it leads to at once may become inputs.
    fn carry_out(
        &mut self,
        now: Timestamp,
        output: <Self::Machine as Machine>::Output,
        inputs: &mut Vec<<Self::Machine as Machine>::Input>,
    );

    /// Called when everything at hand is done, with the machine to look at.
    fn rest(&mut self, now: Timestamp, machine: &Self::Machine);

    /// The input that stands for the passing of time.
    fn tick(&self) -> <Self::Machine as Machine>::Input;

    /// Called for every input before the machine takes it, and for every output after: for an event log.
    fn record_input(&mut self, now: Timestamp, input: &<Self::Machine as Machine>::Input);

    /// See [`Hands::record_input`].
    fn record_output(&mut self, output: &<Self::Machine as Machine>::Output);

    /// Whether the loop shall end.
    fn is_done(&self) -> bool;
}

/// Runs a machine until its hands are done or every sender is gone.
pub async fn run<H: Hands>(mut machine: H::Machine, mut hands: H, mut inbox: mpsc::Receiver<H::Message>) -> H {
    let mut messages = Vec::with_capacity(TAKEN_AT_ONCE);
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    while !hands.is_done() {
        let wait = machine.deadline().map_or(Duration::from_secs(3_600), clock::until);
        let taken = tokio::time::timeout(wait, inbox.recv_many(&mut messages, TAKEN_AT_ONCE)).await;
        let now = clock::now();
        match taken {
            Ok(0) => break,
            Ok(_) => {}
            Err(_) => inputs.push(hands.tick()),
        }
        for message in messages.drain(..) {
            hands.take(now, message, &mut inputs);
            feed(now, &mut machine, &mut hands, &mut inputs, &mut outputs);
        }
        feed(now, &mut machine, &mut hands, &mut inputs, &mut outputs);
        if machine.deadline().is_some_and(|due| due <= now) {
            inputs.push(hands.tick());
            feed(now, &mut machine, &mut hands, &mut inputs, &mut outputs);
        }
        hands.rest(now, &machine);
    }
    hands
}

fn feed<H: Hands>(
    now: Timestamp,
    machine: &mut H::Machine,
    hands: &mut H,
    inputs: &mut Vec<<H::Machine as Machine>::Input>,
    outputs: &mut Vec<<H::Machine as Machine>::Output>,
) {
    while !inputs.is_empty() {
        for input in std::mem::take(inputs) {
            hands.record_input(now, &input);
            machine.handle(now, input, outputs);
            for output in outputs.drain(..) {
                hands.record_output(&output);
                hands.carry_out(now, output, inputs);
            }
        }
    }
}
