//! Which database, and how it is spoken to.

use crate::error::Error;
use crate::place::{Address, Place};
use core::fmt;
use core::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

// Port of a server that names none.
const PORT: u16 = 5432;

// Longest wait for a connection to a machine that does not answer.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

// Silence on a connection before either side asks whether the other is still there.
const IDLE: Duration = Duration::from_secs(10);

// Wait for the answer to that, and how often it is asked: a machine that is gone is noticed within half a minute.
const PROBE: Duration = Duration::from_secs(5);
const PROBES: u32 = 3;

// What the server is told about every session. A lock is waited for two seconds: what a process that was killed held is
// let go within that. A transaction that stands still for a minute is that of a machine that is gone.
const OPTIONS: &str = "-c search_path=openledger -c lock_timeout=2s -c idle_in_transaction_session_timeout=60s \
    -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3 -c client_min_messages=warning";

/// A PostgreSQL database, parsed from its URL: `postgres://user:password@host:port/name`, or
/// `postgres:///name?host=/folder/of/the/socket&user=user`.
///
/// There is no TLS: a password is never sent in plain text, but what is stored is, so the server belongs on the same
/// machine or on a network that nobody else reads. A pool between the two must keep a session on one connection.
#[derive(Clone)]
pub struct Server {
    config: Config,
    place: Place,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.place)
    }
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        let mut config: Config = url.parse().map_err(|cause| Error::Url { cause: Arc::new(cause) })?;
        let place = Place::Server(Box::new(address(&config)));
        let options = [config.get_options().unwrap_or_default(), OPTIONS].join(" ");
        config.options(options).connect_timeout(CONNECT_LIMIT).tcp_user_timeout(IDLE + PROBE * PROBES);
        config.keepalives_idle(IDLE).keepalives_interval(PROBE).keepalives_retries(PROBES);
        if config.get_application_name().is_none() {
            config.application_name("openledger");
        }
        Ok(Self { config, place })
    }
}

impl Server {
    /// Where it is, without user and password.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub(super) async fn connect(
        &self,
    ) -> Result<
        (tokio_postgres::Client, tokio_postgres::Connection<tokio_postgres::Socket, tokio_postgres::tls::NoTlsStream>),
        tokio_postgres::Error,
    > {
        self.config.connect(NoTls).await
    }

    pub(super) fn failed(&self, cause: tokio_postgres::Error) -> Error {
        let place = self.place.clone();
        match cause.code() {
            Some(&SqlState::DISK_FULL) => Error::Full { place },
            Some(&SqlState::LOCK_NOT_AVAILABLE) => Error::Locked { place },
            _ => Error::Server { place, cause: Arc::new(cause) },
        }
    }
}

fn address(config: &Config) -> Address {
    let named = config.get_hosts().first().map(|host| match host {
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(folder) => folder.display().to_string(),
    });
    let host = named.or_else(|| config.get_hostaddrs().first().map(ToString::to_string)).unwrap_or_default();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default().to_owned();
    Address { host, port: config.get_ports().first().copied().unwrap_or(PORT), database }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_parsed_and_its_password_never_shown() {
        let shown = |url: &str| format!("{:?}", url.parse::<Server>().expect("a URL"));
        assert_eq!(shown("postgres://me:secret@db.example:5433/ledger"), "Server(postgres://db.example:5433/ledger)");
        assert_eq!(
            shown("postgres:///ledger?host=/run/postgresql&user=me"),
            "Server(postgres:///ledger?host=/run/postgresql&port=5432)"
        );
        assert_eq!(shown("host=127.0.0.1 user=me"), "Server(postgres://127.0.0.1:5432/me)");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["ledger.db", "postgres://host:port/x"] {
            assert!(matches!(text.parse::<Server>(), Err(Error::Url { .. })), "{text}");
        }
    }
}
