//! Room for connections. At the bound, whoever waits longest without having asked for anything makes room: connections that never ask, or
//! ask a byte at a time, hold up nobody.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep_until};

/// Time that everybody has for a request's head, however many others want the place: a few round trips round the world.
const GRACE: Duration = Duration::from_millis(500);

/// All places.
#[derive(Clone)]
pub(crate) struct Room {
    places: Arc<Semaphore>,
    waiting: Arc<Mutex<Waiting>>,
}

// Who has a place and asks for nothing now, by turn: the first has waited longest.
#[derive(Default)]
struct Waiting {
    next: u64,
    turns: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

/// One connection's place.
pub(crate) struct Place {
    waiting: Arc<Mutex<Waiting>>,
    leave: Arc<Notify>,
    turn: Mutex<Option<u64>>,
    _permit: OwnedSemaphorePermit,
}

/// A request from its head to the end of its answer.
pub(crate) struct Asking(Arc<Place>);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Room {
    pub(crate) fn new(places: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), waiting: Arc::default() }
    }

    /// The next place. Cancel safe: one that made room for nobody is gone all the same.
    pub(crate) async fn place(&self) -> Arc<Place> {
        let places = Arc::clone(&self.places);
        let permit = loop {
            if let Ok(permit) = Arc::clone(&places).try_acquire_owned() {
                break permit;
            }
            let again = lock(&self.waiting).make_room(Instant::now());
            tokio::select! {
                permit = Arc::clone(&places).acquire_owned() => {
                    break permit.expect("the semaphore is never closed");
                }
                () = sleep_until(again) => {}
            }
        };
        let place = Place {
            waiting: Arc::clone(&self.waiting),
            leave: Arc::default(),
            turn: Mutex::new(None),
            _permit: permit,
        };
        place.wait();
        Arc::new(place)
    }
}

impl Waiting {
    // Sends the one away that has waited longest, if its grace is over; says when to look again.
    fn make_room(&mut self, now: Instant) -> Instant {
        match self.turns.first_key_value() {
            Some((_, (since, _))) if *since + GRACE > now => return *since + GRACE,
            Some(_) | None => {}
        }
        if let Some((_, (_, leave))) = self.turns.pop_first() {
            leave.notify_one();
        }
        now + GRACE
    }
}

impl Place {
    fn wait(&self) {
        let mut waiting = lock(&self.waiting);
        let turn = waiting.next;
        waiting.next += 1;
        waiting.turns.insert(turn, (Instant::now(), Arc::clone(&self.leave)));
        *lock(&self.turn) = Some(turn);
    }

    fn stop_waiting(&self) {
        if let Some(turn) = lock(&self.turn).take() {
            lock(&self.waiting).turns.remove(&turn);
        }
    }

    /// A request's head is here: until its answer has ended the place is kept.
    pub(crate) fn ask(self: &Arc<Self>) -> Asking {
        self.stop_waiting();
        Asking(Arc::clone(self))
    }

    /// Ends when somebody else needs the place, unless a request came in the meantime.
    pub(crate) async fn left(&self) {
        loop {
            self.leave.notified().await;
            if lock(&self.turn).is_some() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.stop_waiting();
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[tokio::test(start_paused = true)]
    async fn who_waits_longest_makes_room_and_who_asks_does_not() {
        let room = Room::new(3);
        let (first, second, third) = (room.place().await, room.place().await, room.place().await);
        let asking = first.ask();
        let began = Instant::now();
        let fourth = {
            let next = room.place();
            tokio::pin!(next);
            tokio::select! {
                () = second.left() => {}
                _ = &mut next => panic!("there is no place yet"),
            }
            assert_eq!(began.elapsed(), GRACE);
            drop(second);
            next.await
        };
        assert!(first.left().now_or_never().is_none() && third.left().now_or_never().is_none());
        // It has its answer, and waits behind the others.
        drop(asking);
        let mut next = std::pin::pin!(room.place());
        tokio::select! {
            () = third.left() => {}
            () = fourth.left() => panic!("it came later"),
            () = first.left() => panic!("it asked later"),
            _ = &mut next => panic!("there is no place yet"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn where_all_ask_one_waits_for_the_first_to_leave() {
        let room = Room::new(1);
        let only = room.place().await;
        let asking = only.ask();
        let mut next = std::pin::pin!(room.place());
        assert!(tokio::time::timeout(Duration::from_secs(60), &mut next).await.is_err());
        assert!(only.left().now_or_never().is_none());
        drop(asking);
        drop(only);
        next.await;
    }
}
