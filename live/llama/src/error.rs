//! Why an engine can't be started on a server.

use std::io;

use thiserror::Error as ThisError;

use crate::client;

/// Why an engine can't be started on a server. The text says what to do; the source says why.
#[derive(Debug, ThisError)]
pub enum Error {
    /// The address is of another form.
    #[error("{address:?} is no address of a llama-server; expected http://HOST:PORT")]
    Address {
        /// As given.
        address: String,
    },
    /// The system gives no thread.
    #[error("cannot start a thread for the llama-server")]
    Thread(#[source] io::Error),
    /// The server does not say that it is well.
    #[error("no llama-server answers at {address}; start it, and check the address")]
    Unreachable {
        /// Where it should be.
        address: String,
        /// Why.
        #[source]
        cause: client::Error,
    },
    /// The server is well but answers a question in another way.
    #[error("what answers {path} at {address} is no llama-server of 2025 or later; install a newer one")]
    Other {
        /// Where it is.
        address: String,
        /// Which question.
        path: &'static str,
        /// Why.
        #[source]
        cause: client::Error,
    },
    /// The server has loaded another model, by its sizes.
    #[error(
        "the llama-server at {address} has loaded another model: {server} {what} against the {file} of the file; start it \
         with the file that this node serves"
    )]
    OtherModel {
        /// Where it is.
        address: String,
        /// What was compared.
        what: &'static str,
        /// The server's number.
        server: u64,
        /// The file's number.
        file: u64,
    },
    /// The server has loaded another model, by how it reads text.
    #[error(
        "the llama-server at {address} reads {text:?} as other token ids than the file says; start it with the file that \
         this node serves"
    )]
    OtherTokens {
        /// Where it is.
        address: String,
        /// The text.
        text: &'static str,
    },
}
