//! The configuration of one process: flags over environment over file over defaults, parsed once.
//!
//! A setting has one name everywhere: `node_listen` in the file is `OPENLEDGER_NODE_LISTEN` in the environment and
//! `--node-listen` as a flag.

use crate::join::Joins;
use ol_protocol::{MicroCredits, Price, Region};
use ol_roles::PriceRule;
use serde::Deserialize;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use thiserror::Error as ThisError;

/// Where clients are served. Loopback: whoever serves others says so.
pub(crate) const LISTEN: &str = "127.0.0.1:8080";
/// Where a gateway waits for nodes.
pub(crate) const NODE_LISTEN: &str = "127.0.0.1:8081";
/// Where `up` waits for its own nodes: any free port.
pub(crate) const NODE_LISTEN_UP: &str = "127.0.0.1:0";
/// Length of an epoch: the longest wait for a settled receipt, against one checkpoint and one signature an epoch.
pub(crate) const EPOCH_SECONDS: NonZeroU32 = NonZeroU32::new(600).expect("not zero");
/// Length of an epoch in `up`, so that a newcomer sees one settled.
pub(crate) const EPOCH_SECONDS_UP: NonZeroU32 = NonZeroU32::new(10).expect("not zero");
/// Tasks that a node does at the same time.
pub(crate) const SLOTS: NonZeroU32 = NonZeroU32::new(4).expect("not zero");
/// Price of a million prompt tokens: 2 credits.
pub(crate) const PROMPT_PRICE: u64 = 2_000_000;
/// Price of a million output tokens: 8 credits.
pub(crate) const OUTPUT_PRICE: u64 = 8_000_000;
/// Requests of a tenant in a minute: more than people make, and few enough that one tenant does not take the machine.
pub(crate) const REQUESTS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60_000).expect("not zero");
/// Tokens of a tenant in a minute: beyond what a hundred machines without accelerators compute.
pub(crate) const TOKENS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(100_000_000).expect("not zero");
/// What is logged, as a filter of `tracing`.
pub(crate) const LOG: &str = "info";
/// Where a node says it is.
pub(crate) const REGION: &str = "local";
/// The folder of this program below the user's data directory.
const DATA_FOLDER: &str = "openledger";

/// What the environment's variables of this program start with.
const PREFIX: &str = "OPENLEDGER_";
/// Variables with this prefix that are no settings: the file's path, and where tests find models and a server.
const NO_SETTINGS: [&str; 3] = ["CONFIG", "MODELS", "POSTGRES"];

/// Which process is configured: some defaults differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// A whole network on loopback.
    Up,
    /// A gateway.
    Gateway,
    /// A node.
    Node,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `log_format` is neither `text` nor `json`.
#[derive(Debug, PartialEq, Eq, ThisError)]
#[error("expected `text` or `json`")]
pub(crate) struct NoLogFormat;

impl FromStr for LogFormat {
    type Err = NoLogFormat;

    fn from_str(text: &str) -> Result<Self, NoLogFormat> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(NoLogFormat),
        }
    }
}

/// A text that is never printed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct Secret(String);

impl Secret {
    /// The text itself.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl FromStr for Secret {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The name of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct RegionName(Region);

impl TryFrom<String> for RegionName {
    type Error = ol_protocol::region::ParseError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl FromStr for RegionName {
    type Err = ol_protocol::region::ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// A price for some of the work.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PriceEntry {
    model: Option<String>,
    quantisation: Option<String>,
    region: Option<RegionName>,
    prompt_price: u64,
    output_price: u64,
}

/// Prices beside the one that always holds; as text an inline TOML array.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<PriceEntry>")]
pub(crate) struct PriceList(Vec<PriceEntry>);

/// An entry fits everything.
#[derive(Debug, PartialEq, Eq, ThisError)]
#[error(
    "each of `prices` needs a `model`, a `quantisation` or a `region`: the price of all other work is `prompt_price` and \
     `output_price` outside of them"
)]
pub(crate) struct PriceOfAll;

impl TryFrom<Vec<PriceEntry>> for PriceList {
    type Error = PriceOfAll;

    fn try_from(entries: Vec<PriceEntry>) -> Result<Self, PriceOfAll> {
        let names =
            |entry: &PriceEntry| entry.model.is_some() || entry.quantisation.is_some() || entry.region.is_some();
        if entries.iter().all(names) { Ok(Self(entries)) } else { Err(PriceOfAll) }
    }
}

impl FromStr for PriceList {
    type Err = toml::de::Error;

    fn from_str(text: &str) -> Result<Self, toml::de::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Whole {
            prices: PriceList,
        }
        toml::from_str(&format!("prices = {text}")).map(|Whole { prices }| prices)
    }
}

impl PriceList {
    /// As the gateway takes them.
    pub(crate) fn rules(&self) -> Vec<PriceRule> {
        let rule = |entry: &PriceEntry| PriceRule {
            model: entry.model.clone(),
            quantisation: entry.quantisation.clone(),
            region: entry.region.map(|RegionName(region)| region),
            price: Price {
                prompt_per_million: MicroCredits(entry.prompt_price),
                output_per_million: MicroCredits(entry.output_price),
            },
        };
        self.0.iter().map(rule).collect()
    }
}

/// Why there is no configuration.
#[derive(Debug, ThisError)]
pub(crate) enum Error {
    /// The file can't be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
    /// The file says something that can't be understood.
    #[error("{}:{line}: {key}: {problem}", path.display())]
    File { path: PathBuf, line: usize, key: String, problem: String },
    /// A variable's value can't be understood; it is not repeated, as it may be a secret.
    #[error("the environment variable {variable} cannot be understood")]
    Variable {
        variable: String,
        #[source]
        cause: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no such setting.
    #[error("the environment variable {variable} is no setting; there are {}", known(PREFIX))]
    UnknownVariable { variable: String },
    /// There is no folder for data.
    #[error("no folder for data: give `--data-dir FOLDER`, or set HOME")]
    NoDataDir,
    /// Keys and prompts would cross a network in the clear.
    #[error(
        "listening on {listen} would send keys and prompts over the network unencrypted: put a TLS proxy in front of a \
         loopback address, or give `--allow-plain-http`"
    )]
    PlainHttp { listen: SocketAddr },
}

macro_rules! settings {
    ($($(#[$doc:meta])* $key:ident: $kind:ty,)*) => {
        /// Settings that may or may not be given.
        #[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct PartialConfig {
            $($(#[$doc])* pub(crate) $key: Option<$kind>,)*
        }

        /// The names of all settings.
        const KEYS: &[&str] = &[$(stringify!($key)),*];

        impl PartialConfig {
            /// These settings, and those of `lower` where there is none.
            fn over(self, lower: Self) -> Self {
                Self { $($key: self.$key.or(lower.$key),)* }
            }

            // Sets one setting from text. `None` if there is no such setting.
            fn set(&mut self, key: &str, text: &str) -> Option<Result<(), Box<dyn std::error::Error + Send + Sync>>> {
                match key {
                    $(stringify!($key) => {
                        Some(text.parse::<$kind>().map(|value| self.$key = Some(value)).map_err(Into::into))
                    })*
                    _ => None,
                }
            }
        }
    };
}

settings! {
    /// Address for clients.
    listen: SocketAddr,
    /// Address for nodes.
    node_listen: SocketAddr,
    /// Folder for keys, ledger and models.
    data_dir: PathBuf,
    /// Length of an epoch.
    epoch_seconds: NonZeroU32,
    /// What is logged: a `tracing` filter such as `info,ol_net=debug`.
    log: String,
    /// How log lines look.
    log_format: LogFormat,
    /// A chat model instead of the default one: a GGUF file.
    model: PathBuf,
    /// An embedding model instead of the default one: a folder.
    embedding_model: PathBuf,
    /// A llama-server that computes for the chat model.
    llama_server: String,
    /// Tasks that a node does at the same time.
    slots: NonZeroU32,
    /// Threads that compute; all processors if not given.
    threads: NonZeroU32,
    /// Price of a million prompt tokens, in micro-credits.
    prompt_price: u64,
    /// Price of a million output tokens, in micro-credits.
    output_price: u64,
    /// Other prices, for models and regions; the first that fits holds.
    prices: PriceList,
    /// Requests of a tenant in a minute.
    requests_per_minute: NonZeroU32,
    /// Tokens of a tenant in a minute.
    tokens_per_minute: NonZeroU32,
    /// Serve plain HTTP on an address that isn't loopback.
    allow_plain_http: bool,
    /// The gateways that a node joins: their tickets.
    join: Joins,
    /// What a node must present to join; anyone may if not given.
    join_token: Secret,
    /// File for the machine's inputs and outputs, for `replay`.
    event_log: PathBuf,
    /// Where a node says it is.
    region: RegionName,
    /// A PostgreSQL database that gateways share, instead of one's own file.
    store: Secret,
}

/// Every setting of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Address for clients.
    pub(crate) listen: SocketAddr,
    /// Address for nodes.
    pub(crate) node_listen: SocketAddr,
    /// Folder for keys, ledger and models.
    pub(crate) data_dir: PathBuf,
    /// Length of an epoch.
    pub(crate) epoch_seconds: NonZeroU32,
    /// What is logged: a `tracing` filter.
    pub(crate) log: String,
    /// How log lines look.
    pub(crate) log_format: LogFormat,
    /// A chat model instead of the default one: a GGUF file.
    pub(crate) model: Option<PathBuf>,
    /// An embedding model instead of the default one: a folder.
    pub(crate) embedding_model: Option<PathBuf>,
    /// A llama-server that computes for the chat model, in place of the embedded engine.
    pub(crate) llama_server: Option<String>,
    /// Tasks that a node does at the same time.
    pub(crate) slots: NonZeroU32,
    /// Threads that compute; all processors if not given.
    pub(crate) threads: Option<NonZeroU32>,
    /// Price of a million prompt tokens, in micro-credits.
    pub(crate) prompt_price: u64,
    /// Price of a million output tokens, in micro-credits.
    pub(crate) output_price: u64,
    /// Other prices, for models and regions.
    pub(crate) prices: PriceList,
    /// Requests of a tenant in a minute.
    pub(crate) requests_per_minute: NonZeroU32,
    /// Tokens of a tenant in a minute.
    pub(crate) tokens_per_minute: NonZeroU32,
    /// The gateways that a node joins.
    pub(crate) join: Joins,
    /// What a node must present to join; anyone may if not given.
    pub(crate) join_token: Option<Secret>,
    /// File for the machine's inputs and outputs, for `replay`.
    pub(crate) event_log: Option<PathBuf>,
    /// Where a node says it is.
    pub(crate) region: String,
    /// A PostgreSQL database that gateways share, instead of one's own file.
    pub(crate) store: Option<Secret>,
}

impl Config {
    /// Reads the file if one is named, then `env`, and puts `flags` over both.
    pub(crate) fn load(
        role: Role,
        path: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        flags: PartialConfig,
    ) -> Result<Self, Error> {
        let file = path.map(read).transpose()?.unwrap_or_default();
        let (variables, data_home) = from_environment(env)?;
        let given = flags.over(variables).over(file);
        let (node_listen, epoch_seconds) = match role {
            Role::Up => (NODE_LISTEN_UP, EPOCH_SECONDS_UP),
            Role::Gateway | Role::Node => (NODE_LISTEN, EPOCH_SECONDS),
        };
        let listen = given.listen.unwrap_or_else(|| address(LISTEN));
        let is_open = !listen.ip().is_loopback() && !given.allow_plain_http.unwrap_or(false);
        if is_open && role != Role::Node {
            return Err(Error::PlainHttp { listen });
        }
        Ok(Self {
            listen,
            node_listen: given.node_listen.unwrap_or_else(|| address(node_listen)),
            data_dir: given.data_dir.or(data_home).ok_or(Error::NoDataDir)?,
            epoch_seconds: given.epoch_seconds.unwrap_or(epoch_seconds),
            log: given.log.unwrap_or_else(|| LOG.into()),
            log_format: given.log_format.unwrap_or(LogFormat::Text),
            model: given.model,
            embedding_model: given.embedding_model,
            llama_server: given.llama_server,
            slots: given.slots.unwrap_or(SLOTS),
            threads: given.threads,
            prompt_price: given.prompt_price.unwrap_or(PROMPT_PRICE),
            output_price: given.output_price.unwrap_or(OUTPUT_PRICE),
            prices: given.prices.unwrap_or_default(),
            requests_per_minute: given.requests_per_minute.unwrap_or(REQUESTS_PER_MINUTE),
            tokens_per_minute: given.tokens_per_minute.unwrap_or(TOKENS_PER_MINUTE),
            join: given.join.unwrap_or_default(),
            join_token: given.join_token,
            event_log: given.event_log,
            region: given.region.map_or_else(|| REGION.into(), |RegionName(region)| region.to_string()),
            store: given.store,
        })
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("the default addresses are well formed")
}

fn read(path: &Path) -> Result<PartialConfig, Error> {
    let text = std::fs::read_to_string(path).map_err(|cause| Error::Read { path: path.to_path_buf(), cause })?;
    toml::from_str(&text).map_err(|error| explain(path, &text, &error))
}

// The text of a TOML error repeats the whole line, which may hold a secret: only place, key and problem are kept.
fn explain(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let content = text.lines().nth(line - 1).unwrap_or_default();
    let key = content.split('=').next().unwrap_or_default().trim().to_owned();
    let problem = match error.message() {
        message if message.starts_with("unknown field") => format!("no such setting; there are {}", known("")),
        message => message.to_owned(),
    };
    Error::File { path: path.to_path_buf(), line, key, problem }
}

// The settings in the environment, and the folder for data that it implies.
fn from_environment(env: impl Iterator<Item = (String, String)>) -> Result<(PartialConfig, Option<PathBuf>), Error> {
    let mut settings = PartialConfig::default();
    let (mut data_home, mut home) = (None, None);
    for (variable, text) in env {
        match variable.as_str() {
            // The XDG base directory specification: a relative path is to be ignored.
            "XDG_DATA_HOME" => data_home = Some(PathBuf::from(text)).filter(|path| path.is_absolute()),
            "HOME" => home = Some(PathBuf::from(text)).filter(|path| path.is_absolute()),
            _ => set_variable(&mut settings, variable, &text)?,
        }
    }
    let data_home = data_home.or(home.map(|home| home.join(".local/share")));
    Ok((settings, data_home.map(|folder| folder.join(DATA_FOLDER))))
}

fn set_variable(settings: &mut PartialConfig, variable: String, text: &str) -> Result<(), Error> {
    let Some(name) = variable.strip_prefix(PREFIX).filter(|name| !NO_SETTINGS.contains(name)) else { return Ok(()) };
    let key = if name == name.to_ascii_uppercase() { name.to_ascii_lowercase() } else { String::new() };
    match settings.set(&key, text) {
        None => Err(Error::UnknownVariable { variable }),
        Some(Err(cause)) => Err(Error::Variable { variable, cause }),
        Some(Ok(())) => Ok(()),
    }
}

fn known(prefix: &str) -> String {
    let name =
        |key: &&str| if prefix.is_empty() { (*key).to_owned() } else { format!("{prefix}{}", key.to_uppercase()) };
    KEYS.iter().map(name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> impl Iterator<Item = (String, String)> {
        let home = ("HOME".to_owned(), "/home/ada".to_owned());
        let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        std::iter::once(home).chain(pairs)
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn of_file(text: &str) -> Result<Config, (String, String)> {
        let file = file(text);
        Config::load(Role::Gateway, Some(file.path()), env(&[]), PartialConfig::default()).map_err(|error| {
            let text = error.to_string().replace(&file.path().display().to_string(), "FILE");
            let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            (text, source)
        })
    }

    fn defaults() -> Config {
        Config {
            listen: address("127.0.0.1:8080"),
            node_listen: address("127.0.0.1:8081"),
            data_dir: "/home/ada/.local/share/openledger".into(),
            epoch_seconds: NonZeroU32::new(600).unwrap(),
            log: "info".into(),
            log_format: LogFormat::Text,
            model: None,
            embedding_model: None,
            llama_server: None,
            slots: SLOTS,
            threads: None,
            prompt_price: 2_000_000,
            output_price: 8_000_000,
            prices: PriceList::default(),
            requests_per_minute: REQUESTS_PER_MINUTE,
            tokens_per_minute: TOKENS_PER_MINUTE,
            join: Joins::default(),
            join_token: None,
            event_log: None,
            region: "local".into(),
            store: None,
        }
    }

    #[test]
    fn without_anything_the_defaults_of_the_role_hold() {
        let load = |role| Config::load(role, None, env(&[]), PartialConfig::default()).unwrap();
        assert_eq!(load(Role::Gateway), defaults());
        let up =
            Config { node_listen: address("127.0.0.1:0"), epoch_seconds: NonZeroU32::new(10).unwrap(), ..defaults() };
        assert_eq!(load(Role::Up), up);
    }

    #[test]
    fn flags_win_over_environment_over_file_over_defaults() {
        let file = file("region = \"file\"\nlog = \"file\"\nslots = 1\n");
        let variables = env(&[("OPENLEDGER_REGION", "variable"), ("OPENLEDGER_LOG", "variable"), ("PATH", "/bin")]);
        let flags = PartialConfig { region: "flag".parse().ok(), ..PartialConfig::default() };
        let config = Config::load(Role::Gateway, Some(file.path()), variables, flags).unwrap();
        let slots = NonZeroU32::new(1).unwrap();
        assert_eq!(config, Config { region: "flag".into(), log: "variable".into(), slots, ..defaults() });
    }

    #[test]
    fn every_setting_can_come_from_the_file() {
        let text = "listen = \"127.0.0.1:1\"\nnode_listen = \"0.0.0.0:2\"\ndata_dir = \"/d\"\nepoch_seconds = 3\n\
                    log = \"warn\"\nlog_format = \"json\"\nmodel = \"/m\"\nembedding_model = \"/e\"\n\
                    llama_server = \"http://l\"\nslots = 4\nthreads = 5\n\
                    prompt_price = 6\noutput_price = 7\n\
                    prices = [{ region = \"eu\", prompt_price = 1, output_price = 2 }]\nrequests_per_minute = 8\ntokens_per_minute = 9\n\
                    allow_plain_http = false\njoin = []\njoin_token = \"t\"\nevent_log = \"/l\"\n\
                    region = \"r\"\nstore = \"s\"\n";
        assert_eq!(text.lines().count(), KEYS.len());
        let number = |n| NonZeroU32::new(n).unwrap();
        let expected = Config {
            listen: address("127.0.0.1:1"),
            node_listen: address("0.0.0.0:2"),
            data_dir: "/d".into(),
            epoch_seconds: number(3),
            log: "warn".into(),
            log_format: LogFormat::Json,
            model: Some("/m".into()),
            embedding_model: Some("/e".into()),
            llama_server: Some("http://l".into()),
            slots: number(4),
            threads: Some(number(5)),
            prompt_price: 6,
            output_price: 7,
            prices: "[{ region = \"eu\", prompt_price = 1, output_price = 2 }]".parse().unwrap(),
            requests_per_minute: number(8),
            tokens_per_minute: number(9),
            join: Joins::default(),
            join_token: Some(Secret("t".into())),
            event_log: Some("/l".into()),
            region: "r".into(),
            store: Some(Secret("s".into())),
        };
        assert_eq!(of_file(text), Ok(expected));
    }

    #[test]
    fn every_setting_can_come_from_the_environment() {
        let values = [
            "127.0.0.1:1",
            "0.0.0.0:2",
            "/d",
            "3",
            "warn",
            "json",
            "/m",
            "/e",
            "http://l",
            "4",
            "5",
            "6",
            "7",
            "[]",
            "8",
            "9",
            "true",
            "",
            "t",
            "/l",
            "r",
            "s",
        ];
        let mut settings = PartialConfig::default();
        for (key, value) in KEYS.iter().zip(values) {
            set_variable(&mut settings, format!("{PREFIX}{}", key.to_uppercase()), value).unwrap();
        }
        let missing = settings.clone().over(PartialConfig { region: "other".parse().ok(), ..PartialConfig::default() });
        assert_eq!((settings.allow_plain_http, &settings.join_token), (Some(true), &Some(Secret("t".into()))));
        assert_eq!(missing, settings);
    }

    #[test]
    fn a_fault_in_the_file_is_named_with_line_and_key() {
        let fault = |text| of_file(text).unwrap_err().0;
        let wrong_type = "FILE:2: slots: invalid type: string \"many\", expected a nonzero u32";
        assert_eq!(fault("log = \"info\"\nslots = \"many\"\n"), wrong_type);
        assert_eq!(
            fault("epoch_seconds = 0\n"),
            "FILE:1: epoch_seconds: invalid value: integer `0`, expected a nonzero u32"
        );
        let all = known("");
        assert_eq!(fault("\nlissen = \"x\"\n"), format!("FILE:2: lissen: no such setting; there are {all}"));
        assert!(fault("listen = \n").starts_with("FILE:1: listen: "));
        let for_all = fault("prices = [{ prompt_price = 1, output_price = 2 }]\n");
        assert_eq!(for_all, format!("FILE:1: prices: {PriceOfAll}"));
        let unnamed = fault("[[prices]]\nregion = \"EU!\"\nprompt_price = 1\noutput_price = 2\n");
        assert!(unnamed.starts_with("FILE:2: region: the name of a region has"), "{unnamed}");
        assert!(fault("listen = \"nowhere\"\n").starts_with("FILE:1: listen: invalid socket address"));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error =
            Config::load(Role::Up, Some(Path::new("/none.toml")), env(&[]), PartialConfig::default()).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the configuration file /none.toml");
    }

    #[test]
    fn a_fault_in_the_environment_is_named() {
        let fault =
            |pair| Config::load(Role::Up, None, env(&[pair]), PartialConfig::default()).unwrap_err().to_string();
        assert_eq!(fault(("OPENLEDGER_SLOTS", "0")), "the environment variable OPENLEDGER_SLOTS cannot be understood");
        let unknown = "the environment variable OPENLEDGER_LISTN is no setting; there are OPENLEDGER_LISTEN, ";
        assert!(fault(("OPENLEDGER_LISTN", "x")).starts_with(unknown));
        let config = Config::load(Role::Gateway, None, env(&[("OPENLEDGER_MODELS", "/m")]), PartialConfig::default());
        assert_eq!(config.unwrap(), defaults());
    }

    #[test]
    fn data_lies_where_the_user_keeps_data() {
        let load = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
            Config::load(Role::Up, None, pairs.into_iter(), PartialConfig::default()).map(|config| config.data_dir)
        };
        assert_eq!(load(&[("HOME", "/h"), ("XDG_DATA_HOME", "/x")]).unwrap(), Path::new("/x/openledger"));
        assert_eq!(load(&[("HOME", "/h"), ("XDG_DATA_HOME", "x")]).unwrap(), Path::new("/h/.local/share/openledger"));
        assert!(matches!(load(&[]), Err(Error::NoDataDir)));
    }

    #[test]
    fn plain_http_beyond_loopback_needs_a_word() {
        let listen = address("0.0.0.0:80");
        let flags = PartialConfig { listen: Some(listen), ..PartialConfig::default() };
        let refused = Config::load(Role::Gateway, None, env(&[]), flags.clone());
        assert!(matches!(refused, Err(Error::PlainHttp { listen: address }) if address == listen));
        let allowed = PartialConfig { allow_plain_http: Some(true), ..flags };
        assert_eq!(Config::load(Role::Gateway, None, env(&[]), allowed).unwrap(), Config { listen, ..defaults() });
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", Secret("word".into())), "Secret(..)");
    }
}
