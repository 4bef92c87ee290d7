//! The settings as flags. Each has one name in the file, in the environment and here.

use crate::config::{Config, LogFormat, PartialConfig, RegionName, Role, Secret};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

/// Settings that every part knows.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Common {
    /// Configuration file (TOML); OPENLEDGER_* variables and flags win over it.
    #[arg(long, value_name = "FILE", env = "OPENLEDGER_CONFIG")]
    config: Option<PathBuf>,
    /// Folder for keys, ledger and models [default: ~/.local/share/openledger].
    #[arg(long, value_name = "FOLDER")]
    data_dir: Option<PathBuf>,
    /// Log level, or targets with levels: warn, info, debug, ol_gateway=debug [default: info].
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Log format: text or json [default: text].
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
}

impl Common {
    /// The defaults, in a folder if one is named.
    pub(crate) const fn of(data_dir: Option<PathBuf>) -> Self {
        Self { config: None, data_dir, log: None, log_format: None }
    }
}

/// Settings of a gateway.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Serving {
    /// Address of the HTTP API [default: 127.0.0.1:8080].
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<SocketAddr>,
    /// Address for nodes [default: 127.0.0.1:8081; a free port with `up`].
    #[arg(long, value_name = "HOST:PORT")]
    node_listen: Option<SocketAddr>,
    /// Length of an epoch of a new network [default: 600; 10 with `up`].
    #[arg(long, value_name = "SECONDS")]
    epoch_seconds: Option<NonZeroU32>,
    /// Micro-credits for a million prompt tokens [default: 2000000].
    #[arg(long, value_name = "MICRO_CREDITS")]
    prompt_price: Option<u64>,
    /// Micro-credits for a million output tokens [default: 8000000].
    #[arg(long, value_name = "MICRO_CREDITS")]
    output_price: Option<u64>,
    /// Requests that a tenant may make in a minute [default: 60000].
    #[arg(long, value_name = "NUMBER")]
    requests_per_minute: Option<NonZeroU32>,
    /// Tokens, prompt and output together, that a tenant may use in a minute [default: 100000000].
    #[arg(long, value_name = "NUMBER")]
    tokens_per_minute: Option<NonZeroU32>,
    /// Serve plain HTTP on an address that others reach: keys and prompts travel unencrypted.
    #[arg(long)]
    allow_plain_http: bool,
    /// Record the gateway's events for `openledger replay`; the file holds draw secrets.
    #[arg(long, value_name = "FILE")]
    event_log: Option<PathBuf>,
}

/// Where a gateway's ledger is.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Ledger {
    /// PostgreSQL database with the ledger, shared by the gateways of one owner: postgres://USER:PASSWORD@HOST:PORT/NAME. Better in
    /// OPENLEDGER_STORE or the file, as flags can be seen by others [default: a file in the data folder].
    #[arg(long, value_name = "URL")]
    store: Option<String>,
}

/// Settings of a node.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Working {
    /// GGUF file of the model to serve, instead of the default one; `tiny` is a random model that needs no download.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// Folder with model.safetensors, tokenizer.json and config.json for embeddings, or `tiny`.
    #[arg(long, value_name = "FOLDER")]
    embedding_model: Option<PathBuf>,
    /// Requests to work on at the same time [default: 4].
    #[arg(long, value_name = "NUMBER")]
    slots: Option<NonZeroU32>,
    /// Threads that compute [default: one a core].
    #[arg(long, value_name = "NUMBER")]
    threads: Option<NonZeroU32>,
    /// Where the node stands: tasks that are bound to a region go to nodes that say so and whose messages take as long as those of others there
    /// [default: local].
    #[arg(long, value_name = "NAME")]
    region: Option<RegionName>,
}

/// What computes for a node.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Computing {
    /// Let the llama-server at this address compute for the chat model, which it must have loaded from the same file.
    #[arg(long, value_name = "URL")]
    llama_server: Option<String>,
}

impl Computing {
    /// Puts these flags over the settings.
    pub(crate) fn over(&self, config: &mut Config) {
        if let Some(address) = &self.llama_server {
            config.llama_server = Some(address.clone());
        }
    }
}

/// The token that a gateway asks newcomers for.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Token {
    /// What nodes must say to join, if anything.
    #[arg(long, value_name = "TOKEN")]
    join_token: Option<String>,
}

/// Puts flags, environment and file together.
pub(crate) fn load(
    role: Role,
    common: &Common,
    ledger: Option<&Ledger>,
    serving: Option<&Serving>,
    working: Option<&Working>,
    token: Option<&Token>,
) -> anyhow::Result<Config> {
    let mut flags = PartialConfig {
        data_dir: common.data_dir.clone(),
        log: common.log.clone(),
        log_format: common.log_format,
        ..PartialConfig::default()
    };
    if let Some(url) = ledger.and_then(|ledger| ledger.store.as_deref()) {
        flags.store = url.parse::<Secret>().ok();
    }
    if let Some(serving) = serving {
        flags.listen = serving.listen;
        flags.node_listen = serving.node_listen;
        flags.epoch_seconds = serving.epoch_seconds;
        flags.prompt_price = serving.prompt_price;
        flags.output_price = serving.output_price;
        flags.requests_per_minute = serving.requests_per_minute;
        flags.tokens_per_minute = serving.tokens_per_minute;
        flags.allow_plain_http = serving.allow_plain_http.then_some(true);
        flags.event_log.clone_from(&serving.event_log);
    }
    if let Some(working) = working {
        flags.model.clone_from(&working.model);
        flags.embedding_model.clone_from(&working.embedding_model);
        flags.slots = working.slots;
        flags.threads = working.threads;
        flags.region = working.region;
    }
    if let Some(text) = token.and_then(|token| token.join_token.as_deref()) {
        flags.join_token = text.parse::<Secret>().ok();
    }
    // A variable that is not Unicode is none of ours.
    let env = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    Ok(Config::load(role, common.config.as_deref(), env, flags)?)
}
