//! Which acknowledgements may not have arrived (DESIGN: the sink, rule 5).
//!
//! Two equal requests within a healthy connection are two requests. A request is the same one again if its sender cannot
//! know that the first was taken: no answer was given, the answer was a refusal, or the connection ended after it. For
//! protocols whose sender gives no id of its own, this module says which of the two it is.
//!
//! Where events have ids, as Vector's have, a sender may also cut what it sends again into other requests. The events of
//! the last requests that were taken are remembered for that: those of a connection that has ended are the same ones if
//! they come again, each as often as it was taken.

use crate::chain::Redelivery;
use crate::known::Recent;
use crate::pipeline::Submitter;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use waxseal_trail::hash::Hash;

/// The last answers of a connection that are in doubt when it ends: more than a client has under way at once.
const LAST: usize = 64;
/// The last events of a connection that are in doubt when it ends.
const LAST_EVENTS: usize = 16_384;
/// Of all connections, so many requests and events are remembered, the newest: 16 MiB of digests.
const TAKEN: usize = 16_384;
const TAKEN_EVENTS: usize = 524_288;
/// Events in doubt, of all connections that have ended.
const DOUBTED_EVENTS: usize = 131_072;

/// What is in doubt.
pub struct Doubts {
    /// Requests, and when each was first handed over.
    requests: Mutex<Recent<u64>>,
    events: Mutex<EventDoubts>,
    connections: AtomicU64,
}

struct EventDoubts {
    /// Requests that were taken, with the connection of each, the oldest first.
    taken: VecDeque<(u64, Arc<[Hash]>)>,
    /// How many events they have.
    count: usize,
    /// How often each event was taken on connections that have ended.
    doubted: Recent<u32>,
}

impl Default for Doubts {
    fn default() -> Self {
        let events = EventDoubts { taken: VecDeque::new(), count: 0, doubted: Recent::new(DOUBTED_EVENTS) };
        Doubts { requests: Mutex::default(), events: Mutex::new(events), connections: AtomicU64::new(0) }
    }
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Doubts {
    fn note(&self, key: Hash, since: u64) {
        let mut doubts = lock(&self.requests);
        if doubts.get(&key.0).is_none() {
            doubts.insert(key.0, since);
        }
    }
}

impl EventDoubts {
    fn doubt(&mut self, event: &Hash) {
        match self.doubted.get_mut(&event.0) {
            Some(times) => *times += 1,
            None => self.doubted.insert(event.0, 1),
        }
    }

    fn remember(&mut self, connection: u64, events: Arc<[Hash]>) {
        self.count += events.len();
        self.taken.push_back((connection, events));
        while self.taken.len() > TAKEN || self.count > TAKEN_EVENTS {
            let Some((_, oldest)) = self.taken.pop_front() else { break };
            self.count -= oldest.len();
        }
    }

    fn end(&mut self, connection: u64) {
        let mut last: Vec<Arc<[Hash]>> = Vec::new();
        let mut room = LAST_EVENTS;
        for (_, events) in self.taken.iter().rev().filter(|(c, _)| *c == connection) {
            if events.len() > room {
                break;
            }
            room -= events.len();
            last.push(events.clone());
        }
        self.taken.retain(|(c, _)| *c != connection);
        self.count = self.taken.iter().map(|(_, e)| e.len()).sum();
        last.iter().rev().flat_map(|events| events.iter()).for_each(|e| self.doubt(e));
    }
}

/// A connection, and what was answered on it last.
pub struct Connection {
    doubts: Arc<Doubts>,
    number: u64,
    answered: Mutex<VecDeque<(Hash, u64)>>,
    /// Events of it are remembered.
    has_events: AtomicBool,
}

impl Connection {
    /// A fresh one.
    pub fn new(doubts: Arc<Doubts>) -> Arc<Connection> {
        let number = doubts.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(Connection {
            doubts,
            number,
            answered: Mutex::default(),
            has_events: AtomicBool::new(false),
        })
    }

    /// Whether a request with this key is in doubt as a whole.
    pub fn is_doubted(&self, key: &Hash) -> bool {
        lock(&self.doubts.requests).get(&key.0).is_some()
    }

    /// Which of these events were taken before, on a connection that has ended. Each is recognised as often as it was taken.
    pub fn recognise(self: &Arc<Self>, events: &[Option<Hash>]) -> Recognised {
        let mut doubts = lock(&self.doubts.events);
        let mut again = Vec::new();
        if !doubts.doubted.is_empty() {
            for (i, event) in events.iter().enumerate() {
                if let Some(event) = event
                    && let Some(times) = doubts.doubted.get_mut(&event.0)
                    && *times > 0
                {
                    *times -= 1;
                    again.push((i, *event));
                }
            }
        }
        Recognised { connection: self.clone(), again }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Whoever closed it may not have read what was written last.
        for (key, since) in lock(&self.answered).drain(..) {
            self.doubts.note(key, since);
        }
        if *self.has_events.get_mut() {
            lock(&self.doubts.events).end(self.number);
        }
    }
}

/// Events of a request that were taken before. Dropped without [`Recognised::taken`], they are in doubt again.
pub struct Recognised {
    connection: Arc<Connection>,
    again: Vec<(usize, Hash)>,
}

impl Recognised {
    /// Their places in the request, ascending, and what they were recognised by.
    pub fn events(&self) -> &[(usize, Hash)] {
        &self.again
    }

    /// The request was taken, with all of these events.
    pub fn taken(mut self, events: Arc<[Hash]>) {
        self.again.clear();
        if !events.is_empty() {
            self.connection.has_events.store(true, Ordering::Relaxed);
            lock(&self.connection.doubts.events).remember(self.connection.number, events);
        }
    }
}

impl Drop for Recognised {
    fn drop(&mut self) {
        if !self.again.is_empty() {
            let mut doubts = lock(&self.connection.doubts.events);
            self.again.iter().for_each(|(_, event)| doubts.doubt(event));
        }
    }
}

/// A request that has come and is not answered. Dropped so, it is in doubt.
pub struct Delivery {
    connection: Arc<Connection>,
    key: Hash,
    since: u64,
    answered: bool,
}

impl Delivery {
    /// Begins one; says when a request with this key is one that came before.
    pub fn begin(connection: &Arc<Connection>, submitter: &Submitter, key: Hash) -> (Redelivery, Delivery) {
        Delivery::at(connection, submitter.tick(), key)
    }

    fn at(connection: &Arc<Connection>, now: u64, key: Hash) -> (Redelivery, Delivery) {
        let doubted = lock(&connection.doubts.requests).get(&key.0).copied();
        let delivery =
            Delivery { connection: connection.clone(), key, since: doubted.unwrap_or(now), answered: false };
        (doubted.map_or(Redelivery::Earlier, Redelivery::Asked), delivery)
    }

    /// Its sender is told that it was taken.
    pub fn answered(mut self) {
        self.answered = true;
        lock(&self.connection.doubts.requests).forget(&self.key.0);
        let mut last = lock(&self.connection.answered);
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back((self.key, self.since));
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.doubts.note(self.key, self.since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_doubt() {
        let doubts = Arc::<Doubts>::default();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts));
        let key = Hash([7; 32]);
        // New, answered; the same again on a healthy connection is another one.
        let (first, delivery) = Delivery::at(&a, 1, key);
        assert_eq!(first, Redelivery::Earlier);
        delivery.answered();
        let (equal, delivery) = Delivery::at(&b, 2, key);
        assert_eq!(equal, Redelivery::Earlier);
        // That one was cut off.
        drop(delivery);
        let (again, delivery) = Delivery::at(&b, 9, key);
        assert_eq!(again, Redelivery::Asked(2));
        delivery.answered();
        assert_eq!(Delivery::at(&b, 10, key).0, Redelivery::Earlier);
        // The connection of an answer ended: its client may not have read it.
        let other = Hash([8; 32]);
        Delivery::at(&a, 11, other).1.answered();
        drop(a);
        assert_eq!(Delivery::at(&b, 12, other).0, Redelivery::Asked(11));
    }

    #[test]
    fn events_that_come_in_other_requests() {
        let doubts = Arc::<Doubts>::default();
        let event = |n: u8| Hash([n; 32]);
        let again = |r: &Recognised| r.events().iter().map(|(i, _)| *i).collect::<Vec<_>>();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts.clone()));
        let took: Arc<[Hash]> = [1, 2, 2, 3].map(event).into();
        a.recognise(&[]).taken(took);
        // While their connection lives, equal events are others.
        let some = [4, 2, 1, 2, 2].map(|n| Some(event(n)));
        assert!(again(&b.recognise(&some)).is_empty());
        drop(a);
        // Each as often as it was taken; one without an id never.
        let r = b.recognise(&some);
        assert_eq!(again(&r), [1, 2, 3]);
        assert!(again(&b.recognise(&some[1..3])).is_empty(), "recognised already");
        // That request was refused: they are in doubt as before.
        drop(r);
        let r = b.recognise(&[None, Some(event(1)), Some(event(3))]);
        assert_eq!(again(&r), [1, 2]);
        // It was taken, and its connection ended too.
        r.taken([1, 3].map(event).into());
        drop(b);
        let c = Connection::new(doubts);
        assert_eq!(again(&c.recognise(&[Some(event(3)), Some(event(1)), Some(event(1))])), [0, 1]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut all = EventDoubts { taken: VecDeque::new(), count: 0, doubted: Recent::new(10) };
        let thousand: Arc<[Hash]> = (0..1000u32).map(|n| Hash([n as u8; 32])).collect();
        for n in 0..2000 {
            all.remember(n % 2, thousand.clone());
        }
        assert_eq!((all.taken.len(), all.count), (524, 524_000));
        all.end(1);
        assert_eq!((all.taken.len(), all.count), (262, 262_000));
        for n in 0..20_000 {
            all.remember(n, Arc::new([Hash([1; 32])]));
        }
        assert!(all.taken.len() <= TAKEN);
        assert!((0..=255).filter(|n| all.doubted.get(&[*n; 32]).is_some()).count() <= 10);
    }
}
