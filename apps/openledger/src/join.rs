//! The gateways that a node joins.

use crate::config::Secret;
use anyhow::{bail, ensure};
use ol_protocol::ticket::{ParseTicketError, Ticket};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::str::FromStr;

/// Most gateways of a node: each that has nothing to do keeps a slot.
const GATEWAYS_MAX: usize = 16;

/// A gateway's ticket, and the word that it asks newcomers for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Join {
    /// The ticket.
    pub(crate) ticket: Ticket,
    /// The word.
    pub(crate) token: Option<Secret>,
}

impl FromStr for Join {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        let (ticket, token) = match text.trim().split_once('#') {
            Some((ticket, token)) => (ticket, Some(token)),
            None => (text, None),
        };
        // A secret is any text.
        Ok(Self { ticket: ticket.parse()?, token: token.and_then(|token| token.parse().ok()) })
    }
}

impl TryFrom<String> for Join {
    type Error = ParseTicketError;

    fn try_from(text: String) -> Result<Self, ParseTicketError> {
        text.parse()
    }
}

/// A list of gateways; as text one after the other with spaces between.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Joins(pub(crate) Vec<Join>);

impl FromStr for Joins {
    type Err = ParseTicketError;

    fn from_str(text: &str) -> Result<Self, ParseTicketError> {
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl Joins {
    /// The gateways, each with the word that it is told. A word without a ticket before it is for the only gateway: nobody
    /// else's gateway is told it.
    pub(crate) fn checked(self, token: Option<&Secret>) -> anyhow::Result<Vec<Join>> {
        let Self(mut joins) = self;
        ensure!(!joins.is_empty(), "name the gateway's ticket with --join");
        ensure!(joins.len() <= GATEWAYS_MAX, "a node serves {GATEWAYS_MAX} gateways at most, not {}", joins.len());
        let mut known = BTreeSet::new();
        if let Some(twice) = joins.iter().find(|join| !known.insert(join.ticket.gateway)) {
            bail!("the gateway {} is named twice with --join", twice.ticket.gateway);
        }
        match (token, joins.as_mut_slice()) {
            (Some(token), [only]) => drop(only.token.get_or_insert_with(|| token.clone())),
            (Some(_), _) => bail!(
                "a join token alone says not which of several gateways it is for: put it behind its ticket, TICKET#TOKEN"
            ),
            (None, _) => {}
        }
        Ok(joins)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ol_protocol::{GatewayId, NetworkId};

    fn join(byte: u8, token: Option<&str>) -> Join {
        let (gateway, network) = (GatewayId([byte; 32]), NetworkId([9; 32]));
        let ticket = Ticket { address: format!("gateway-{byte}:8081"), gateway, network };
        Join { ticket, token: token.map(|token| token.parse().unwrap()) }
    }

    fn text(of: &Join) -> String {
        match &of.token {
            Some(token) => format!("{}#{}", of.ticket, token.reveal()),
            None => of.ticket.to_string(),
        }
    }

    #[test]
    fn tickets_are_read_with_their_words() {
        let all = [join(1, None), join(2, Some("word #2"))];
        assert_eq!(text(&all[0]).parse::<Joins>(), Ok(Joins(vec![all[0].clone()])));
        assert_eq!(text(&all[1]).parse::<Join>(), Ok(all[1].clone()));
        assert_eq!(format!("{}\n {}", text(&all[0]), text(&all[0])).parse::<Joins>().unwrap().0.len(), 2);
        assert!("ol1:nowhere#word".parse::<Join>().is_err());
    }

    #[test]
    fn a_file_has_a_list_of_them() {
        let all = [join(1, None), join(2, Some("word"))];
        let line = format!("join = [\"{}\", \"{}\"]", text(&all[0]), text(&all[1]));
        let read: std::collections::BTreeMap<String, Joins> = toml::from_str(&line).unwrap();
        assert_eq!(read["join"], Joins(all.to_vec()));
        let wrong = toml::from_str::<std::collections::BTreeMap<String, Joins>>("join = [\"nowhere\"]").unwrap_err();
        assert!(wrong.to_string().contains("not a ticket"), "{wrong}");
    }

    #[test]
    fn a_word_is_told_to_its_own_gateway_only() {
        let word: Secret = "word".parse().unwrap();
        assert_eq!(Joins(vec![join(1, None)]).checked(Some(&word)).unwrap(), [join(1, Some("word"))]);
        let both = Joins(vec![join(1, None), join(2, None)]);
        assert_eq!(both.clone().checked(None).unwrap(), both.0);
        let refused = both.checked(Some(&word)).unwrap_err().to_string();
        assert!(refused.contains("TICKET#TOKEN"), "{refused}");
    }

    #[test]
    fn gateways_are_named_once_and_not_too_many() {
        let refused = |joins: Vec<Join>| Joins(joins).checked(None).unwrap_err().to_string();
        assert_eq!(refused(Vec::new()), "name the gateway's ticket with --join");
        assert!(refused(vec![join(1, None), join(1, Some("again"))]).contains("named twice"));
        assert!(refused((0..17).map(|byte| join(byte, None)).collect()).contains("16 gateways at most, not 17"));
    }
}
