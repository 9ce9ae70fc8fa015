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
use crate::lock;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
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

/// Requests in doubt: for each key the attempts ([`Redelivery::Attempt`]) that may have been taken, unheard.
#[derive(Default)]
pub struct Attempts(Recent<Vec<u64>>);

impl Attempts {
    /// An attempt at the request with this key, to be gone on with: whoever takes it has it alone.
    pub fn take(&mut self, key: &Hash) -> Option<u64> {
        let attempts = self.0.get_mut(&key.0)?;
        if attempts.is_empty() { None } else { Some(attempts.remove(0)) }
    }

    /// One that is in doubt.
    pub fn put(&mut self, key: &Hash, attempt: u64) {
        match self.0.get_mut(&key.0) {
            None => self.0.insert(key.0, vec![attempt]),
            Some(attempts) => {
                if attempts.len() == LAST {
                    attempts.remove(0);
                }
                attempts.push(attempt);
            }
        }
    }

    fn forget(&mut self, key: &Hash, attempt: u64) {
        if let Some(attempts) = self.0.get_mut(&key.0) {
            attempts.retain(|a| *a != attempt);
        }
    }

    /// Whether there is one.
    pub fn has(&self, key: &Hash) -> bool {
        self.0.get(&key.0).is_some_and(|a| !a.is_empty())
    }
}

/// What is in doubt.
pub struct Doubts {
    /// [`crate::pipeline::Submitter::attempt`].
    fresh: Box<dyn Fn() -> u64 + Send + Sync>,
    requests: Mutex<Requests>,
    events: Mutex<EventDoubts>,
    numbers: AtomicU64,
}

#[derive(Default)]
struct Requests {
    doubted: Attempts,
    /// Those that have come and are not answered, by number.
    open: HashMap<u64, Open>,
}

struct Open {
    connection: u64,
    /// Once it is known what it is: its key, and its attempt.
    what: Option<(Hash, u64)>,
    /// Nobody is there to hear its answer; that is noted.
    gone: bool,
    /// It is being taken in.
    taking: bool,
}

struct EventDoubts {
    /// Requests that were taken, with the connection of each, the oldest first.
    taken: VecDeque<Taken>,
    /// How many events they have.
    count: usize,
    /// How often each event was taken on connections that have ended, and in which request the last time.
    doubted: Recent<(u32, What)>,
}

/// A request: its key, and its attempt.
type What = (Hash, u64);

struct Taken {
    connection: u64,
    what: What,
    events: Arc<[Hash]>,
}

impl Doubts {
    /// None yet. `fresh` is [`crate::pipeline::Submitter::attempt`].
    pub fn new(fresh: impl Fn() -> u64 + Send + Sync + 'static) -> Doubts {
        let doubted = Recent::new(DOUBTED_EVENTS);
        Doubts {
            fresh: Box::new(fresh),
            requests: Mutex::default(),
            events: Mutex::new(EventDoubts { taken: VecDeque::new(), count: 0, doubted }),
            numbers: AtomicU64::new(0),
        }
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }
}

impl Requests {
    fn gone(&mut self, number: u64) {
        if let Some(open) = self.open.get_mut(&number).filter(|o| !o.gone) {
            open.gone = true;
            if let Some((key, attempt)) = open.what {
                self.doubted.put(&key, attempt);
            }
        }
    }
}

impl EventDoubts {
    fn doubt(&mut self, event: &Hash, what: What) {
        match self.doubted.get_mut(&event.0) {
            Some((times, last)) => (*times, *last) = (*times + 1, what),
            None => self.doubted.insert(event.0, (1, what)),
        }
    }

    fn remember(&mut self, taken: Taken) {
        self.count += taken.events.len();
        self.taken.push_back(taken);
        while self.taken.len() > TAKEN || self.count > TAKEN_EVENTS {
            let Some(oldest) = self.taken.pop_front() else { break };
            self.count -= oldest.events.len();
        }
    }

    fn end(&mut self, connection: u64) {
        let mut last: Vec<(What, Arc<[Hash]>)> = Vec::new();
        let mut room = LAST_EVENTS;
        for taken in self.taken.iter().rev().filter(|t| t.connection == connection) {
            if taken.events.len() > room {
                break;
            }
            room -= taken.events.len();
            last.push((taken.what, taken.events.clone()));
        }
        self.taken.retain(|t| t.connection != connection);
        self.count = self.taken.iter().map(|t| t.events.len()).sum();
        for (what, events) in last.iter().rev() {
            events.iter().for_each(|e| self.doubt(e, *what));
        }
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
        let number = doubts.number();
        Arc::new(Connection {
            doubts,
            number,
            answered: Mutex::default(),
            has_events: AtomicBool::new(false),
        })
    }

    /// Its client is gone: it hears nothing more, and may not have heard what was said last. Work for it may go on.
    pub fn ended(&self) {
        let answered = std::mem::take(&mut *lock(&self.answered));
        {
            let mut requests = lock(&self.doubts.requests);
            answered.iter().for_each(|(key, attempt)| requests.doubted.put(key, *attempt));
            let of_it = requests.open.iter().filter(|(_, o)| o.connection == self.number).map(|(n, _)| *n);
            of_it.collect::<Vec<_>>().into_iter().for_each(|n| requests.gone(n));
        }
        if self.has_events.load(Ordering::Relaxed) {
            lock(&self.doubts.events).end(self.number);
        }
    }

    /// Which of these events were taken before, on a connection that has ended. Each is recognised as often as it was taken.
    pub fn recognise(self: &Arc<Self>, events: &[Option<Hash>]) -> Recognised {
        let mut doubts = lock(&self.doubts.events);
        let (mut again, mut whence) = (Vec::new(), Vec::new());
        if !doubts.doubted.is_empty() {
            for (i, event) in events.iter().enumerate() {
                if let Some(event) = event
                    && let Some((times, what)) = doubts.doubted.get_mut(&event.0)
                    && *times > 0
                {
                    *times -= 1;
                    whence.push(*what);
                    again.push((i, *event));
                }
            }
        }
        Recognised { connection: self.clone(), again, whence }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // What was taken after its client was gone.
        self.ended();
    }
}

/// Events of a request that were taken before. Dropped without [`Recognised::taken`], they are in doubt again.
pub struct Recognised {
    connection: Arc<Connection>,
    again: Vec<(usize, Hash)>,
    /// For each the request that it was in.
    whence: Vec<What>,
}

impl Recognised {
    /// Their places in the request, ascending, and what they were recognised by.
    pub fn events(&self) -> &[(usize, Hash)] {
        &self.again
    }

    /// They are recognised one by one: the requests that they were in will not come again as a whole.
    pub fn singly(&self) {
        let mut whole = self.whence.clone();
        whole.dedup();
        let mut requests = lock(&self.connection.doubts.requests);
        whole.iter().for_each(|(key, attempt)| requests.doubted.forget(key, *attempt));
    }

    /// The request was taken, as this one and with all of these events.
    pub fn taken(mut self, events: Arc<[Hash]>, what: Option<(Hash, u64)>) {
        self.again.clear();
        if let Some(what) = what.filter(|_| !events.is_empty()) {
            self.connection.has_events.store(true, Ordering::Relaxed);
            let taken = Taken { connection: self.connection.number, what, events };
            lock(&self.connection.doubts.events).remember(taken);
        }
    }
}

impl Drop for Recognised {
    fn drop(&mut self) {
        if !self.again.is_empty() {
            let mut doubts = lock(&self.connection.doubts.events);
            self.again.iter().zip(&self.whence).for_each(|((_, event), what)| doubts.doubt(event, *what));
        }
    }
}

/// A request that has come and is not answered: whoever would answer it has this. Dropped so, it is in doubt.
pub struct Delivery {
    connection: Arc<Connection>,
    number: u64,
}

/// The same request, for whoever takes it in, who may still be at it when nobody waits for the answer any more.
pub struct Incoming {
    connection: Arc<Connection>,
    number: u64,
}

impl Delivery {
    /// One that has come on a connection.
    pub fn new(connection: &Arc<Connection>) -> Delivery {
        let (connection, number) = (connection.clone(), connection.doubts.number());
        let open = Open { connection: connection.number, what: None, gone: false, taking: false };
        lock(&connection.doubts.requests).open.insert(number, open);
        Delivery { connection, number }
    }

    /// For whoever takes it in: once.
    pub fn incoming(&self) -> Incoming {
        if let Some(open) = lock(&self.connection.doubts.requests).open.get_mut(&self.number) {
            open.taking = true;
        }
        Incoming { connection: self.connection.clone(), number: self.number }
    }

    /// Its sender is told that it was taken.
    pub fn answered(self) {
        let open = lock(&self.connection.doubts.requests).open.remove(&self.number);
        let Some(Open { what: Some(what), gone: false, .. }) = open else { return };
        let mut last = lock(&self.connection.answered);
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back(what);
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // Nothing, if it was answered. Whoever takes it in may still be at it, and not know yet what it is.
        let mut requests = lock(&self.connection.doubts.requests);
        requests.gone(self.number);
        if requests.open.get(&self.number).is_some_and(|o| !o.taking) {
            requests.open.remove(&self.number);
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut requests = lock(&self.connection.doubts.requests);
        if let Some(open) = requests.open.get_mut(&self.number) {
            open.taking = false;
            if open.gone {
                requests.open.remove(&self.number);
            }
        }
    }
}

impl Incoming {
    /// Its connection.
    pub fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    /// Whether a request with this key is in doubt.
    pub fn is_doubted(&self, key: &Hash) -> bool {
        lock(&self.connection.doubts.requests).doubted.has(key)
    }

    /// Before [`Incoming::begin`], on a thread that may wait: a client that gives one up and sends it again at once may be heard
    /// of the second before it is seen that nobody waits for the first. Two that are equal and both wanted wait a moment.
    pub fn let_go(&self, key: &Hash) {
        for _ in 0..20 {
            let requests = lock(&self.connection.doubts.requests);
            let same = |o: &Open| !o.gone && o.what.is_some_and(|(k, _)| k == *key);
            if requests.doubted.has(key) || !requests.open.values().any(same) {
                return;
            }
            drop(requests);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What it is, once that is known.
    pub fn what(&self) -> Option<(Hash, u64)> {
        lock(&self.connection.doubts.requests).open.get(&self.number)?.what
    }

    /// It is this request: one that is in doubt goes on, or it is a fresh one.
    pub fn begin(&self, key: Hash) -> Redelivery {
        let doubts = &self.connection.doubts;
        let mut requests = lock(&doubts.requests);
        let attempt = requests.doubted.take(&key).unwrap_or_else(|| (doubts.fresh)());
        if let Some(open) = requests.open.get_mut(&self.number) {
            open.what = Some((key, attempt));
            if open.gone {
                requests.doubted.put(&key, attempt);
            }
        }
        Redelivery::Attempt(attempt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doubts() -> Arc<Doubts> {
        let last = AtomicU64::new(0);
        Arc::new(Doubts::new(move || last.fetch_add(1, Ordering::Relaxed) + 1))
    }

    fn begin(connection: &Arc<Connection>, key: Hash) -> (u64, Delivery) {
        let delivery = Delivery::new(connection);
        let Redelivery::Attempt(n) = delivery.incoming().begin(key) else { panic!("an attempt") };
        (n, delivery)
    }

    #[test]
    fn what_is_in_doubt() {
        let doubts = doubts();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts.clone()));
        let key = Hash([7; 32]);
        // New, answered; the same again on a healthy connection is another one.
        let (one, delivery) = begin(&a, key);
        delivery.answered();
        let (two, delivery) = begin(&b, key);
        assert_ne!(one, two);
        // That one was cut off: it is gone on with, by one of those that come.
        drop(delivery);
        let (again, delivery) = begin(&b, key);
        let (three, other) = begin(&b, key);
        assert_eq!(again, two);
        assert!(three != one && three != two);
        drop(other);
        delivery.answered();
        assert_eq!(begin(&b, key).0, three);
        // The connection of an answer ended: its client may not have read it.
        drop(a);
        let taken: Vec<_> = (0..2).map(|_| begin(&b, key)).map(|(n, d)| (n, d.answered()).0).collect();
        assert_eq!(taken, [three, one]);
    }

    #[test]
    fn nobody_waits_for_it_any_more() {
        let doubts = doubts();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts.clone()));
        let key = Hash([7; 32]);
        // Its stream is reset while it is taken in, before and after it is known what it is.
        let (before, after) = (Delivery::new(&a), Delivery::new(&a));
        let (b_in, a_in) = (before.incoming(), after.incoming());
        a_in.begin(key);
        assert!(!a_in.is_doubted(&key));
        drop(after);
        assert!(a_in.is_doubted(&key), "sent again while the first is still on its way");
        let other = Hash([8; 32]);
        drop(before);
        b_in.begin(other);
        assert!(a_in.is_doubted(&other));
        // Its connection ends.
        let third = Hash([9; 32]);
        let (_, delivery) = begin(&b, third);
        b.ended();
        assert!(a_in.is_doubted(&third));
        // It is durable after all: it stays in doubt, since nobody read the answer.
        delivery.answered();
        assert!(a_in.is_doubted(&third));
        drop((a_in, b_in, a, b));
        assert!(lock(&doubts.requests).open.is_empty(), "nothing is left");
    }

    #[test]
    fn events_that_come_in_other_requests() {
        let doubts = doubts();
        let event = |n: u8| Hash([n; 32]);
        let again = |r: &Recognised| r.events().iter().map(|(i, _)| *i).collect::<Vec<_>>();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts.clone()));
        let took: Arc<[Hash]> = [1, 2, 2, 3].map(event).into();
        let what = |n| Some((event(0), n));
        a.recognise(&[]).taken(took, what(1));
        // While their connection lives, equal events are others.
        let some = [4, 2, 1, 2, 2].map(|n| Some(event(n)));
        assert!(again(&b.recognise(&some)).is_empty());
        a.ended();
        // Taken after its client was gone.
        a.recognise(&[]).taken([5].map(event).into(), what(2));
        drop(a);
        assert_eq!(again(&b.recognise(&[Some(event(5))])), [0]);
        // Each as often as it was taken; one without an id never.
        let r = b.recognise(&some);
        assert_eq!(again(&r), [1, 2, 3]);
        assert!(again(&b.recognise(&some[1..3])).is_empty(), "recognised already");
        // That request was refused: they are in doubt as before.
        drop(r);
        let r = b.recognise(&[None, Some(event(1)), Some(event(3))]);
        assert_eq!(again(&r), [1, 2]);
        // It was taken, and its connection ended too.
        r.taken([1, 3].map(event).into(), what(3));
        drop(b);
        let c = Connection::new(doubts);
        assert_eq!(again(&c.recognise(&[Some(event(3)), Some(event(1)), Some(event(1))])), [0, 1]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut all = EventDoubts { taken: VecDeque::new(), count: 0, doubted: Recent::new(10) };
        let taken = |connection, events| Taken { connection, what: (Hash([0; 32]), 1), events };
        let thousand: Arc<[Hash]> = (0..1000u32).map(|n| Hash([n as u8; 32])).collect();
        for n in 0..2000 {
            all.remember(taken(n % 2, thousand.clone()));
        }
        assert_eq!((all.taken.len(), all.count), (524, 524_000));
        all.end(1);
        assert_eq!((all.taken.len(), all.count), (262, 262_000));
        for n in 0..20_000 {
            all.remember(taken(n, Arc::new([Hash([1; 32])])));
        }
        assert!(all.taken.len() <= TAKEN);
        assert!((0..=255).filter(|n| all.doubted.get(&[*n; 32]).is_some()).count() <= 10);
    }
}
