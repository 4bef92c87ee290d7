//! A ticket: one line to paste that lets a node find its gateway and know it for the right one.

use crate::id::{GatewayId, NetworkId, hex};
use alloc::format;
use alloc::string::String;

/// Where the gateway listens for nodes, its key, and its network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// `host:port`.
    pub address: String,
    /// The gateway's public key.
    pub gateway: GatewayId,
    /// The network.
    pub network: NetworkId,
}

/// Why a line is no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a ticket ({why}): a ticket is one line, ol1:HOST:PORT/GATEWAY/NETWORK, as `openledger gateway` prints it")]
pub struct ParseTicketError {
    why: &'static str,
}

const PREFIX: &str = "ol1:";

impl core::fmt::Display for Ticket {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(&format!("{PREFIX}{}/{}/{}", self.address, hex(&self.gateway.0), hex(&self.network.0)))
    }
}

impl core::str::FromStr for Ticket {
    type Err = ParseTicketError;

    fn from_str(line: &str) -> Result<Self, ParseTicketError> {
        let wrong = |why| ParseTicketError { why };
        let rest = line.trim().strip_prefix(PREFIX).ok_or(wrong("it does not begin with ol1:"))?;
        let mut parts = rest.split('/');
        let address = parts.next().unwrap_or_default();
        let (host, port) = address.rsplit_once(':').ok_or(wrong("the address has no port"))?;
        if host.is_empty() || port.parse::<u16>().is_err() {
            return Err(wrong("the address is not HOST:PORT"));
        }
        let gateway = parts.next().and_then(|t| t.parse().ok()).ok_or(wrong("the gateway's key is not 64 digits"))?;
        let network = parts.next().and_then(|t| t.parse().ok()).ok_or(wrong("the network's id is not 64 digits"))?;
        if parts.next().is_some() {
            return Err(wrong("something follows the network's id"));
        }
        Ok(Self { address: address.into(), gateway, network })
    }
}
