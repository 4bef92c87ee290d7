//! Serves a scripted network on a free loopback port, to try clients against: prints its URL and a key.
#![expect(clippy::print_stdout, reason = "an example speaks to people")]

use ol_gateway::server::Config;
use ol_gateway::{Error, Server};

#[path = "../tests/support/scripted.rs"]
mod scripted;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let (backend, _closings) = scripted::Scripted::new();
    let server = Server::bind(Config::at(([127, 0, 0, 1], 0).into()), backend).await?;
    println!("OPENLEDGER_URL=http://{}", server.address());
    println!("OPENLEDGER_KEY={}", scripted::key(1).expose());
    println!("OPENLEDGER_LIMITED_KEY={}", scripted::key(2).expose());
    server.run(async { tokio::signal::ctrl_c().await.expect("signals can be awaited") }).await;
    Ok(())
}
