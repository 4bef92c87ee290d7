//! Connections of nodes: the first frame is checked here, everything after it goes to the loop.

use super::message::Message;
use ol_net::frame::{Hello, PROTOCOL, RefuseCode, Role};
use ol_net::{CloseCode, Down, GatewayLink, Reason, Server, Up};
use ol_protocol::certificate::Certificate;
use ol_protocol::digest::{Domain, digest};
use ol_protocol::{NetworkId, NodeId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use subtle::ConstantTimeEq as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Who may join.
pub(super) struct Door {
    pub(super) network: NetworkId,
    pub(super) referee: NodeId,
    pub(super) join_token: Option<String>,
}

/// Accepts nodes until the server ends.
pub(super) async fn accept(mut server: Server, door: Arc<Door>, inbox: mpsc::Sender<Message>) {
    let mut links = JoinSet::new();
    let generation = AtomicU64::new(0);
    loop {
        tokio::select! {
            link = server.accept() => {
                let Some(link) = link else { break };
                let number = generation.fetch_add(1, Ordering::Relaxed);
                links.spawn(serve(link, number, door.clone(), inbox.clone()));
            }
            Some(_) = links.join_next(), if !links.is_empty() => {}
        }
    }
}

async fn serve(mut link: GatewayLink, generation: u64, door: Arc<Door>, inbox: mpsc::Sender<Message>) {
    let node = link.peer;
    let hello = match link.receiver.recv().await {
        Some(Ok(Up::Hello(hello))) => hello,
        Some(Ok(_)) | None => return,
        Some(Err(error)) => return tracing::info!(node = %node.short(), %error, "a link without a hello"),
    };
    let certificate = match door.admit(node, &hello) {
        Ok(certificate) => certificate,
        Err((code, message)) => {
            tracing::info!(node = %node.short(), message, "a node is refused");
            let refused = Down::Refused { code, message: message.clone() };
            if link.sender.try_send(refused).is_ok() {
                link.close(Reason::new(CloseCode::Refused, message)).await;
            }
            return;
        }
    };
    let sender = link.sender.clone();
    let joined =
        Message::Joined { node, generation, sender, certificate: Box::new(certificate), hello: Box::new(hello) };
    if inbox.send(joined).await.is_err() {
        return;
    }
    while let Some(frame) = link.receiver.recv().await {
        let message = match frame {
            Ok(frame) => Message::Frame { node, generation, frame },
            Err(error) => {
                tracing::info!(node = %node.short(), %error, "a link is lost");
                break;
            }
        };
        if inbox.send(message).await.is_err() {
            return;
        }
    }
    // The loop has ended with the gateway: nothing is left to tell.
    drop(inbox.send(Message::Left { node, generation }).await);
}

impl Door {
    fn admit(&self, node: NodeId, hello: &Hello) -> Result<Certificate, (RefuseCode, String)> {
        if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
            let message = format!(
                "this gateway speaks protocol {PROTOCOL}, the node {} to {}: update the older one",
                hello.protocol_min, hello.protocol_max
            );
            return Err((RefuseCode::Protocol, message));
        }
        if hello.network != self.network {
            return Err((RefuseCode::Network, format!("this is network {}: ask for a new ticket", self.network)));
        }
        if let Some(token) = &self.join_token {
            let said = hello.join_token.as_deref().unwrap_or_default();
            if !equal(token, said) {
                return Err((RefuseCode::JoinToken, "this gateway asks for a join token: pass --join-token".into()));
            }
        }
        if (hello.role == Role::Referee) != (node == self.referee) {
            return Err((RefuseCode::Role, "the referee's role belongs to the network's own key".into()));
        }
        let bad = |why: String| (RefuseCode::Certificate, why);
        let certificate = Certificate::from_bytes(&hello.certificate).map_err(|e| bad(e.to_string()))?;
        certificate.verify().map_err(|e| bad(e.to_string()))?;
        if certificate.node != node || certificate.network != self.network {
            return Err(bad("the certificate is for another node or network".into()));
        }
        Ok(certificate)
    }
}

// In a time that depends on neither word.
fn equal(a: &str, b: &str) -> bool {
    let hash = |word: &str| digest(Domain::ApiKey, &[word.as_bytes()]).0;
    hash(a).ct_eq(&hash(b)).into()
}
