//! The hands of a node: those of each of its links, round one machine that divides the slots.

use crate::hands::{LinkHands, Message};
use ol_drive::Hands;
use ol_protocol::calibration::Calibration;
use ol_protocol::{GatewayId, Timestamp};
use ol_roles::Node;
use ol_roles::node::{Action, Event, Input};
use std::collections::BTreeMap;
use tokio::sync::{mpsc, watch};

/// What others send a node's loop.
pub(crate) enum Mail {
    /// Something for what the node does for one gateway.
    At {
        /// The gateway.
        gateway: GatewayId,
        /// What.
        message: Message,
    },
    /// What honest answers of a variant look like was measured.
    Calibrated(Box<Calibration>),
    /// Finish what runs, take nothing new, then end.
    Drain,
}

/// The node's loop has ended.
#[derive(Debug)]
pub(crate) struct Ended;

/// Where messages go that belong to one gateway.
#[derive(Clone)]
pub(crate) struct Inbox {
    pub(crate) mail: mpsc::Sender<Mail>,
    pub(crate) gateway: GatewayId,
}

impl Inbox {
    fn at(&self, message: Message) -> Mail {
        Mail::At { gateway: self.gateway, message }
    }

    /// Waits for room.
    pub(crate) async fn send(&self, message: Message) -> Result<(), Ended> {
        self.mail.send(self.at(message)).await.map_err(|_| Ended)
    }

    /// From an engine's thread, which waits for room: a full inbox holds the engine up. A task that is refused at once is refused on
    /// the loop's own thread, which must not wait for itself.
    pub(crate) fn tell(&self, message: Message) -> Result<(), Ended> {
        let mail = self.at(message);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return self.mail.blocking_send(mail).map_err(|_| Ended);
        };
        match self.mail.try_send(mail) {
            Ok(()) => Ok(()),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Ended),
            Err(mpsc::error::TrySendError::Full(mail)) => {
                let inbox = self.mail.clone();
                runtime.spawn(async move { inbox.send(mail).await });
                Ok(())
            }
        }
    }
}

/// See the module.
pub(crate) struct NodeHands {
    pub(crate) links: BTreeMap<GatewayId, LinkHands>,
    pub(crate) drained: watch::Sender<bool>,
}

fn events(gateway: GatewayId, from: Vec<Input>, to: &mut Vec<Event>) {
    to.extend(from.into_iter().map(|input| Event::At { gateway, input }));
}

impl Hands for NodeHands {
    type Machine = Node;
    type Message = Mail;

    fn take(&mut self, now: Timestamp, mail: Mail, inputs: &mut Vec<Event>) {
        match mail {
            Mail::At { gateway, message } => {
                let Some(link) = self.links.get_mut(&gateway) else { return };
                let mut news = Vec::new();
                link.take(now, message, &mut news);
                events(gateway, news, inputs);
            }
            Mail::Calibrated(calibration) => {
                self.links.values_mut().for_each(|link| link.calibrated((*calibration).clone()));
            }
            Mail::Drain => {
                self.links.values().for_each(LinkHands::leave);
                inputs.push(Event::Drain);
            }
        }
    }

    fn carry_out(&mut self, now: Timestamp, action: Action, inputs: &mut Vec<Event>) {
        match action {
            Action::At { gateway, output } => {
                let Some(link) = self.links.get_mut(&gateway) else { return };
                let mut news = Vec::new();
                link.carry_out(now, output, &mut news);
                events(gateway, news, inputs);
            }
            Action::Drained => drop(self.drained.send(true)),
        }
    }

    fn rest(&mut self, _now: Timestamp, _machine: &Node) {}

    fn tick(&self) -> Event {
        Event::Tick
    }

    fn record_input(&mut self, _now: Timestamp, _input: &Event) {}

    fn record_output(&mut self, _output: &Action) {}

    fn is_done(&self) -> bool {
        *self.drained.borrow()
    }
}
