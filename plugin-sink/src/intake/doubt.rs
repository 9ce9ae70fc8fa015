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
use std::collections::{HashMap, VecDeque};
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
    /// The sink's [`crate::chain::Own::tick`].
    now: Box<dyn Fn() -> u64 + Send + Sync>,
    requests: Mutex<Requests>,
    events: Mutex<EventDoubts>,
    numbers: AtomicU64,
}

#[derive(Default)]
struct Requests {
    /// When each that is in doubt was first handed over.
    doubted: Recent<u64>,
    /// Those that have come and are not answered, by number.
    open: HashMap<u64, Open>,
    /// The numbers of those with the same key.
    by_key: HashMap<[u8; 32], Vec<u64>>,
}

struct Open {
    connection: u64,
    /// Once it is known what it is.
    key: Option<Hash>,
    /// When it was handed over; what was sealed before that was another request.
    since: u64,
    /// Nobody is there to hear its answer.
    gone: bool,
    /// It is being taken in.
    taking: bool,
}

struct EventDoubts {
    /// Requests that were taken, with the connection of each, the oldest first.
    taken: VecDeque<(u64, Arc<[Hash]>)>,
    /// How many events they have.
    count: usize,
    /// How often each event was taken on connections that have ended.
    doubted: Recent<u32>,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Doubts {
    /// None yet. `now` is the sink's [`crate::chain::Own::tick`].
    pub fn new(now: impl Fn() -> u64 + Send + Sync + 'static) -> Doubts {
        let doubted = Recent::new(DOUBTED_EVENTS);
        Doubts {
            now: Box::new(now),
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
    fn note(&mut self, key: &Hash, since: u64) {
        if self.doubted.get(&key.0).is_none() {
            self.doubted.insert(key.0, since);
        }
    }

    /// Forgets an open one; says what it was.
    fn close(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        if let Some(key) = &open.key
            && let Some(same) = self.by_key.get_mut(&key.0)
        {
            same.retain(|n| *n != number);
            if same.is_empty() {
                self.by_key.remove(&key.0);
            }
        }
        Some(open)
    }

    fn gone(&mut self, number: u64) {
        if let Some(open) = self.open.get_mut(&number) {
            open.gone = true;
            if let (Some(key), since) = (open.key, open.since) {
                self.note(&key, since);
            }
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
            answered.iter().for_each(|(key, since)| requests.note(key, *since));
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
        // What was taken after its client was gone.
        self.ended();
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
        let open = Open { connection: connection.number, key: None, since: 0, gone: false, taking: false };
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
        let mut requests = lock(&self.connection.doubts.requests);
        let Some(Open { key: Some(key), since, gone: false, .. }) = requests.close(self.number) else {
            return;
        };
        requests.doubted.forget(&key.0);
        drop(requests);
        let mut last = lock(&self.connection.answered);
        if last.len() == LAST {
            last.pop_front();
        }
        last.push_back((key, since));
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        // Nothing, if it was answered. Whoever takes it in may still be at it, and not know yet what it is.
        let mut requests = lock(&self.connection.doubts.requests);
        requests.gone(self.number);
        if requests.open.get(&self.number).is_some_and(|o| !o.taking) {
            requests.close(self.number);
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        let mut requests = lock(&self.connection.doubts.requests);
        if let Some(open) = requests.open.get_mut(&self.number) {
            open.taking = false;
            if open.gone {
                requests.close(self.number);
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
        lock(&self.connection.doubts.requests).doubted.get(&key.0).is_some()
    }

    /// It is this request. Says when a request with this key is one that came before.
    pub fn begin(&self, key: Hash) -> Redelivery {
        let now = (self.connection.doubts.now)();
        let mut requests = lock(&self.connection.doubts.requests);
        let doubted = requests.doubted.get(&key.0).copied();
        if let Some(open) = requests.open.get_mut(&self.number) {
            open.key = Some(key);
            open.since = doubted.unwrap_or(now);
            let gone = open.gone;
            requests.by_key.entry(key.0).or_default().push(self.number);
            if gone {
                requests.gone(self.number);
            }
        }
        doubted.map_or(Redelivery::Earlier, Redelivery::Asked)
    }

    /// All of it is durable.
    pub fn taken(&self) {
        let now = (self.connection.doubts.now)();
        let mut requests = lock(&self.connection.doubts.requests);
        let key = requests.open.get(&self.number).and_then(|o| o.key);
        let same = key.and_then(|k| requests.by_key.get(&k.0).cloned()).unwrap_or_default();
        // What is sealed by now is this one. An equal one beside it is not, and may be refused yet.
        for number in same.into_iter().filter(|n| *n != self.number) {
            if let Some(open) = requests.open.get_mut(&number) {
                open.since = open.since.max(now);
            }
        }
    }

    /// When what was handed over is tried again: what of it is sealed by now is known.
    pub fn again(&self) -> Redelivery {
        let since = lock(&self.connection.doubts.requests).open.get(&self.number).map_or(0, |o| o.since);
        Redelivery::Asked(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ticks(Arc<AtomicU64>);

    fn doubts() -> (Arc<Doubts>, Ticks) {
        let ticks = Arc::new(AtomicU64::new(0));
        let now = ticks.clone();
        (Arc::new(Doubts::new(move || now.load(Ordering::Relaxed))), Ticks(ticks))
    }

    impl Ticks {
        fn at(&self, tick: u64) {
            self.0.store(tick, Ordering::Relaxed);
        }
    }

    fn begin(connection: &Arc<Connection>, key: Hash) -> (Redelivery, Delivery) {
        let delivery = Delivery::new(connection);
        (delivery.incoming().begin(key), delivery)
    }

    #[test]
    fn what_is_in_doubt() {
        let (doubts, ticks) = doubts();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts.clone()));
        let key = Hash([7; 32]);
        ticks.at(1);
        // New, answered; the same again on a healthy connection is another one.
        let (first, delivery) = begin(&a, key);
        assert_eq!(first, Redelivery::Earlier);
        delivery.answered();
        ticks.at(2);
        let (equal, delivery) = begin(&b, key);
        assert_eq!(equal, Redelivery::Earlier);
        // That one was cut off.
        drop(delivery);
        ticks.at(9);
        let (again, delivery) = begin(&b, key);
        assert_eq!(again, Redelivery::Asked(2));
        delivery.answered();
        assert_eq!(begin(&b, key).0, Redelivery::Earlier);
        // The connection of an answer ended: its client may not have read it.
        let other = Hash([8; 32]);
        ticks.at(11);
        begin(&a, other).1.answered();
        drop(a);
        assert_eq!(begin(&b, other).0, Redelivery::Asked(11));
    }

    #[test]
    fn nobody_waits_for_it_any_more() {
        let (doubts, ticks) = doubts();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts.clone()));
        let key = Hash([7; 32]);
        ticks.at(5);
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
        let requests = lock(&doubts.requests);
        assert!(requests.open.is_empty() && requests.by_key.is_empty(), "nothing is left");
    }

    #[test]
    fn equal_ones_under_way_together() {
        let (doubts, ticks) = doubts();
        let a = Connection::new(doubts);
        let key = Hash([7; 32]);
        let (one, two) = (Delivery::new(&a), Delivery::new(&a));
        let (one_in, two_in) = (one.incoming(), two.incoming());
        assert_eq!((one_in.begin(key), two_in.begin(key)), (Redelivery::Earlier, Redelivery::Earlier));
        // One is sealed at tick 1 and answered, the other is refused: it was never sealed.
        ticks.at(1);
        one_in.taken();
        drop(one_in);
        one.answered();
        drop((two_in, two));
        assert_eq!(begin(&a, key).0, Redelivery::Asked(1), "what was sealed at 1 is another one");
    }

    #[test]
    fn events_that_come_in_other_requests() {
        let (doubts, _) = doubts();
        let event = |n: u8| Hash([n; 32]);
        let again = |r: &Recognised| r.events().iter().map(|(i, _)| *i).collect::<Vec<_>>();
        let (a, b) = (Connection::new(doubts.clone()), Connection::new(doubts.clone()));
        let took: Arc<[Hash]> = [1, 2, 2, 3].map(event).into();
        a.recognise(&[]).taken(took);
        // While their connection lives, equal events are others.
        let some = [4, 2, 1, 2, 2].map(|n| Some(event(n)));
        assert!(again(&b.recognise(&some)).is_empty());
        a.ended();
        // Taken after its client was gone.
        a.recognise(&[]).taken([5].map(event).into());
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
