//! Which models a node serves, loaded once and shared by the nodes of a process.

use crate::calibrations::Subject;
use crate::config::Config;
use crate::fetch;
use crate::home::Home;
use anyhow::Context as _;
use ol_engine::{Cheat, Engine, Model, Options, Outline};
use std::path::Path;
use std::sync::Arc;

/// Public names of the default models.
const LLAMA: &str = "smollm2-135m-instruct";
const MINILM: &str = "all-minilm-l6-v2";

/// In place of a path: a seeded random model that babbles, for trying things out without a download.
const TINY: &str = "tiny";

/// Loaded models.
#[derive(Clone)]
pub(crate) struct Models {
    text: Arc<Model>,
    vectors: Arc<Model>,
}

/// How the engines of a node run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run {
    /// Requests at the same time.
    pub(crate) slots: u32,
    /// Threads that compute, 0 for one a core.
    pub(crate) threads: u32,
    /// How the node cheats, if it does.
    pub(crate) cheat: Option<Cheat>,
}

impl Models {
    /// Loads what the configuration names, and fetches the default models where it names none.
    pub(crate) fn load(config: &Config, home: &Home) -> anyhow::Result<Self> {
        let (text, vectors) = match (&config.model, &config.embedding_model) {
            (Some(text), Some(vectors)) => (named(text, None)?, bert(vectors, None)?),
            (text, vectors) => {
                let defaults = fetch::ensure(home.sub("models")?.path(), fetch::Progress::detect())?;
                let open_text = || match text {
                    Some(path) => named(path, None),
                    None => named(&defaults.llama, Some(LLAMA)),
                };
                let open_vectors = || match vectors {
                    Some(path) => bert(path, None),
                    None => bert(&defaults.minilm, Some(MINILM)),
                };
                std::thread::scope(|scope| {
                    let vectors = scope.spawn(open_vectors);
                    let text = open_text();
                    let vectors = vectors.join().map_err(|_| anyhow::anyhow!("loading the embedding model failed"))?;
                    anyhow::Ok((text?, vectors?))
                })?
            }
        };
        Ok(Self { text: Arc::new(text), vectors: Arc::new(vectors) })
    }

    /// The model that continues text.
    pub(crate) fn text(&self) -> Arc<Model> {
        self.text.clone()
    }

    /// The model that turns text into vectors.
    pub(crate) fn vectors(&self) -> Arc<Model> {
        self.vectors.clone()
    }

    /// The name of the model that continues text.
    pub(crate) fn text_name(&self) -> String {
        self.text.variant().name.clone()
    }

    /// Engines to be measured, over the shared weights.
    pub(crate) fn subjects(&self, run: Run) -> Vec<Subject> {
        vec![self.text_subject(run), subject(&self.vectors, run, Cheat::OF_VECTORS)]
    }

    /// The one that continues text, with cheats that claim to be it.
    pub(crate) fn text_subject(&self, run: Run) -> Subject {
        subject(&self.text, run, Cheat::ALL)
    }

    /// Engines of their own over the shared weights.
    pub(crate) fn engines(&self, run: Run) -> Vec<Arc<dyn Engine>> {
        let Run { slots, threads, cheat } = run;
        let options = Options { slots, threads, cheat };
        vec![ol_engine::start(self.text.clone(), options), ol_engine::start(self.vectors.clone(), options)]
    }
}

fn subject<const CHEATS: usize>(model: &Arc<Model>, run: Run, cheats: [Cheat; CHEATS]) -> Subject {
    let (model, Run { slots, threads, .. }) = (model.clone(), run);
    let start = move |cheat| ol_engine::start(model.clone(), Options { slots, threads, cheat });
    let engine = start(None);
    Subject { engine, cheats: Box::new(cheats.into_iter().map(move |cheat| start(Some(cheat)))) }
}

/// The model that continues text, without the other.
pub(crate) fn text(config: &Config, home: &Home) -> anyhow::Result<Model> {
    match &config.model {
        Some(path) => named(path, None),
        None => named(&fetch::ensure(home.sub("models")?.path(), fetch::Progress::detect())?.llama, Some(LLAMA)),
    }
}

/// Engines of a node whose chat model a llama-server computes.
pub(crate) fn with_server(
    config: &Config,
    home: &Home,
    address: &str,
    run: Run,
) -> anyhow::Result<Vec<Arc<dyn Engine>>> {
    let Run { slots, threads, cheat } = run;
    let (outline, vectors) = match (&config.model, &config.embedding_model) {
        (Some(text), Some(vectors)) => (outline(text)?, bert(vectors, None)?),
        (text, vectors) => {
            let defaults = fetch::ensure(home.sub("models")?.path(), fetch::Progress::detect())?;
            let text = match text {
                Some(path) => outline(path)?,
                None => outline(&defaults.llama)?.named(LLAMA),
            };
            let vectors = match vectors {
                Some(path) => bert(path, None)?,
                None => bert(&defaults.minilm, Some(MINILM))?,
            };
            (text, vectors)
        }
    };
    let server = ol_llama::Options { address: address.to_owned(), slots, limits: ol_llama::Limits::default() };
    let text = ol_llama::connect(outline, &server).context("cannot use the llama-server")?;
    if text.slots() < slots {
        let all = text.slots();
        tracing::warn!(all, "the llama-server has fewer slots than asked for; start it with a larger --parallel");
    }
    let context = text.variant().context_tokens;
    if context < ol_llama::CONTEXT_LEAST {
        let least = ol_llama::CONTEXT_LEAST;
        tracing::warn!(
            context,
            least,
            "the llama-server's slots are so short that nobody has measured them: start it with a larger --ctx-size"
        );
    }
    tracing::info!(context, "each slot of the llama-server is used up to so many tokens");
    Ok(vec![text, ol_engine::start(Arc::new(vectors), Options { slots, threads, cheat })])
}

fn outline(path: &Path) -> anyhow::Result<Outline> {
    if path == Path::new(TINY) {
        return Ok(Outline::tiny(1)?.named(TINY));
    }
    Outline::open_gguf(path).with_context(|| format!("cannot read the model {}", path.display()))
}

/// The model that continues text of a file, or the tiny one.
pub(crate) fn named(path: &Path, name: Option<&str>) -> anyhow::Result<Model> {
    if path == Path::new(TINY) {
        return Ok(Model::tiny(1)?.named(TINY));
    }
    let model = Model::open_gguf(path).with_context(|| format!("cannot load the model {}", path.display()))?;
    Ok(match name {
        Some(name) => model.named(name),
        None => model,
    })
}

fn bert(path: &Path, name: Option<&str>) -> anyhow::Result<Model> {
    if path == Path::new(TINY) {
        return Ok(Model::tiny_bert(1).named("tiny-embeddings"));
    }
    let model =
        Model::open_bert(path).with_context(|| format!("cannot load the embedding model {}", path.display()))?;
    Ok(match name {
        Some(name) => model.named(name),
        None => model,
    })
}
