//! Stands between a node and a gateway, and can cut their link, keep them apart, make the way long or lose what the gateway sends.

use crate::process::LIMIT;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Passes bytes on in both directions.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    open: Mutex<Vec<TcpStream>>,
    apart: AtomicBool,
    deaf: AtomicBool,
    // Milliseconds from the gateway to the node.
    way: AtomicU64,
}

impl Proxy {
    /// To this address.
    pub(crate) fn to(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::new(State::default()));
        let ours = Arc::clone(&state);
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let (target, state) = (target.clone(), Arc::clone(&ours));
                std::thread::spawn(move || state.join(near, &target));
            }
        });
        Self { address, state }
    }

    /// Cuts all links; a new one may be made at once.
    pub(crate) fn cut(&self) {
        for socket in self.state.sockets().drain(..) {
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    /// Cuts all links if the two shall be apart, and makes none until they shan't.
    pub(crate) fn keep_apart(&self, apart: bool) {
        self.state.apart.store(apart, Ordering::SeqCst);
        if apart {
            self.cut();
        }
    }

    /// Lets what the gateway sends arrive so many milliseconds later.
    pub(crate) fn stand_far_away(&self, millis: u64) {
        self.state.way.store(millis, Ordering::SeqCst);
    }

    /// Loses what the gateway sends from here on, or no longer does.
    pub(crate) fn lose_answers(&self, deaf: bool) {
        self.state.deaf.store(deaf, Ordering::SeqCst);
    }
}

impl State {
    fn sockets(&self) -> std::sync::MutexGuard<'_, Vec<TcpStream>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Waits for a gateway that is not there yet, so that a node need not wait before it asks again.
    fn reach(&self, target: &str) -> Option<TcpStream> {
        let began = Instant::now();
        while began.elapsed() < LIMIT {
            if !self.apart.load(Ordering::SeqCst)
                && let Ok(socket) = TcpStream::connect(target)
            {
                return Some(socket);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    fn join(self: Arc<Self>, near: TcpStream, target: &str) {
        let Some(far) = self.reach(target) else { return };
        drop((near.set_nodelay(true), far.set_nodelay(true)));
        let ends = (near.try_clone(), far.try_clone(), near.try_clone(), far.try_clone());
        let (Ok(mut from_node), Ok(mut to_gateway), Ok(mut to_node), Ok(mut from_gateway)) = ends else { return };
        self.sockets().extend([near, far]);
        std::thread::spawn(move || pass(&mut from_node, &mut to_gateway, || false));
        pass(&mut from_gateway, &mut to_node, || {
            std::thread::sleep(Duration::from_millis(self.way.load(Ordering::SeqCst)));
            self.deaf.load(Ordering::SeqCst)
        });
    }
}

fn pass(from: &mut TcpStream, to: &mut TcpStream, is_lost: impl Fn() -> bool) {
    let mut buffer = [0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if !is_lost() && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
