//! Which database, and how it is spoken to.

use super::encryption::{self, Encryption};
use crate::error::Error;
use crate::place::{Address, Place};
use core::fmt;
use core::pin::Pin;
use core::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

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
/// To another machine it is spoken to over TLS, and must prove its name by a certificate: of an authority that this
/// machine knows, or of one in the file that `sslrootcert` names. `sslmode=verify-full` asks for that on this machine too,
/// `sslmode=require` means the same, `sslmode=disable` forgoes it. A pool between the two must keep a session on one connection.
#[derive(Clone)]
pub struct Server {
    config: Config,
    // Without it nothing is encrypted.
    tls: Option<MakeRustlsConnect>,
    place: Place,
}

/// What reads and writes a connection's socket until it ends.
pub(super) type Drive = Pin<Box<dyn Future<Output = Result<(), tokio_postgres::Error>> + Send>>;

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({})", self.place)
    }
}

impl FromStr for Server {
    type Err = Error;

    fn from_str(url: &str) -> Result<Self, Error> {
        let (url, wanted) = encryption::take(url)?;
        let mut config: Config = url.parse().map_err(|cause| Error::Url { cause: Arc::new(cause) })?;
        let place = Place::Server(Box::new(address(&config)));
        let tls = match wanted {
            Encryption::Off => None,
            Encryption::Default if is_local(&config) => None,
            Encryption::Default => Some(encryption::connector(None)?),
            Encryption::On { authorities } => Some(encryption::connector(authorities.as_deref())?),
        };
        config.ssl_mode(if tls.is_some() { SslMode::Require } else { SslMode::Disable });
        let options = [config.get_options().unwrap_or_default(), OPTIONS].join(" ");
        config.options(options).connect_timeout(CONNECT_LIMIT).tcp_user_timeout(IDLE + PROBE * PROBES);
        config.keepalives_idle(IDLE).keepalives_interval(PROBE).keepalives_retries(PROBES);
        if config.get_application_name().is_none() {
            config.application_name("openledger");
        }
        Ok(Self { config, tls, place })
    }
}

impl Server {
    /// Where it is, without user and password.
    pub fn place(&self) -> &Place {
        &self.place
    }

    pub(super) async fn connect(&self) -> Result<(Client, Drive), tokio_postgres::Error> {
        Ok(if let Some(tls) = &self.tls {
            let (client, connection) = self.config.connect(tls.clone()).await?;
            (client, Box::pin(connection) as Drive)
        } else {
            let (client, connection) = self.config.connect(NoTls).await?;
            (client, Box::pin(connection) as Drive)
        })
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

// Whether what is sent stays on this machine.
fn is_local(config: &Config) -> bool {
    if !config.get_hostaddrs().is_empty() {
        return config.get_hostaddrs().iter().all(|address| address.is_loopback());
    }
    config.get_hosts().iter().all(|host| match host {
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|address: std::net::IpAddr| address.is_loopback())
        }
        #[cfg(unix)]
        Host::Unix(_) => true,
    })
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
    }

    #[test]
    fn what_leaves_the_machine_is_encrypted_unless_told_otherwise() {
        let encrypted = |url: &str| {
            let server: Server = url.parse().expect("a URL");
            let required = server.config.get_ssl_mode() == SslMode::Require;
            assert_eq!(server.tls.is_some(), required, "{url}");
            required
        };
        for url in [
            "postgres://me@db.example/ledger",
            "postgres://me@10.0.0.7/ledger",
            "postgres://me@localhost,db.example/ledger",
            "postgres://me@localhost/ledger?hostaddr=10.0.0.7",
            "postgres://me@localhost/ledger?sslmode=verify-full",
            "postgres://me@db.example/ledger?connect_timeout=3&sslmode=require",
        ] {
            assert!(encrypted(url), "{url}");
        }
        for url in [
            "postgres://me@localhost/ledger",
            "postgres://me@127.0.0.1:5433/ledger",
            "postgres://me@[::1]/ledger",
            "postgres:///ledger?host=/run/postgresql",
            "postgres://me@db.example/ledger?sslmode=disable&connect_timeout=3",
        ] {
            assert!(!encrypted(url), "{url}");
        }
    }

    #[test]
    fn encryption_that_would_prove_nothing_is_refused() {
        let refused = |url: &str| url.parse::<Server>().expect_err("a bad URL").to_string();
        for mode in ["prefer", "allow", "verify-ca", "", "on"] {
            let message = refused(&format!("postgres://me@db.example/ledger?sslmode={mode}"));
            assert!(message.contains("verify-full") && message.contains("disable"), "{message}");
        }
        assert!(refused("postgres://me@db.example/l?sslrootcert=/no/such%20file").contains("/no/such file"));
        assert!(refused("postgres://me@db.example/l?sslmode=disable&sslrootcert=/a").contains("sslrootcert"));
        let empty = tempfile::NamedTempFile::new().expect("a file");
        assert!(
            refused(&format!("postgres://me@h/l?sslrootcert={}", empty.path().display()))
                .contains("there is no certificate in")
        );
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["ledger.db", "postgres://host:port/x", "host=127.0.0.1 user=me"] {
            assert!(matches!(text.parse::<Server>(), Err(Error::Url { .. } | Error::Scheme)), "{text}");
        }
    }
}
