//! One writer: genesis, key statements, headers (FORMAT sections 3, 4 and 7).

use crate::anchors;
use crate::{Anchor, Inventory, Picked, Session, Task, WriterKeys};
use std::collections::{BTreeMap, HashMap};
use waxseal_store::At;
use waxseal_trail::envelope::MAX_ENVELOPE;
use waxseal_trail::hash::Hash;
use waxseal_trail::keys::PublicKey;
use waxseal_trail::name;
use waxseal_trail::statement::{self, Batch, Keys, Reason, State, Writer};
use waxseal_trail::time::Time;
use waxseal_trail::valid::{self, Bad};
use waxseal_trail::verdict::{Finding, Verdict};

/// What is known of a writer after its statements have been checked.
pub(crate) struct Summary {
    pub(crate) writer: String,
    pub(crate) batches: u64,
    pub(crate) records: u64,
    pub(crate) certificates: Vec<Hash>,
    genesis: Writer,
    /// Statement hashes by batch.
    statements: BTreeMap<u64, Hash>,
    genesis_statement: Hash,
    retired: bool,
    /// One more than its last header's number.
    next_batch: u64,
}

/// The keys in force from a batch on.
struct InForce {
    number: u64,
    from_batch: u64,
    keys: Vec<PublicKey>,
    statement: Hash,
}

/// Checks a writer's statements and adds its events objects to `tasks`; `None` if it is not trusted.
pub(crate) fn check(
    session: &Session<'_>,
    writer: &str,
    have: &WriterKeys,
    tasks: &mut Vec<Task>,
) -> Option<Summary> {
    let (name, _) = name::split_writer(writer)?;
    let key = name::genesis_key(writer);
    let finding = |v, d: String| Finding::new(v, d).at(&key).of(writer);
    // Of several that are self-consistent, the first that the trust file vouches for; else the first.
    let check = |trusted: bool| {
        session.pick(&At::key(&key), Some(writer), MAX_ENVELOPE as u64, &|b| {
            let (genesis, keys, statement) = read_genesis(session, writer, &b)?;
            if trusted && let Err(why) = is_trusted(session, name, &genesis, &keys) {
                return Err(Bad::Invalid(why));
            }
            Ok(((genesis, keys, statement), statement))
        })
    };
    let known = session.trusts_name(name);
    let logged = session.logged(&key).is_some();
    // Without a log, under a name that the trust file knows this is no stranger's business: a genesis may have been replaced.
    let ours = logged || session.log.is_none() && known;
    let picked = match check(session.has_many(&key)).0 {
        // Whoever may put can put two of their own: that is no fork of anybody's.
        Picked::Invalid(d) if session.has_many(&key) => {
            session.find(finding(if ours { Verdict::Untrusted } else { Verdict::Foreign }, d));
            return None;
        }
        picked => picked,
    };
    let (genesis, keys, statement) = match picked {
        Picked::Object(g) => g,
        Picked::Missing => {
            // Under a lock what was there is there; what was logged was there.
            let lost = logged || known && !session.is_locked();
            let verdict = if lost { Verdict::Truncated } else { Verdict::Foreign };
            session.find(finding(
                verdict,
                "not there, and without it nothing of this writer can be judged".to_owned(),
            ));
            return None;
        }
        Picked::Failed => return None,
        Picked::Invalid(d) | Picked::Unusable(Bad::Invalid(d)) => {
            let lost = logged || known && !session.is_locked();
            session.find(finding(if lost { Verdict::Tampered } else { Verdict::Foreign }, d));
            return None;
        }
        Picked::Unusable(Bad::Unknown(d)) => {
            session.find(finding(Verdict::UnknownFormat, d));
            return None;
        }
        Picked::Unusable(Bad::Malformed(d)) => {
            session.find(finding(Verdict::Inconsistent, d));
            return None;
        }
        Picked::Archived(_) => {
            session.find(finding(Verdict::Unreadable, "archived, which it must never be".to_owned()));
            return None;
        }
    };
    if let Err(why) = is_trusted(session, name, &genesis, &keys) {
        session.find(finding(if ours { Verdict::Untrusted } else { Verdict::Foreign }, why));
        return None;
    }
    let mut summary = Summary {
        writer: writer.to_owned(),
        batches: 0,
        records: 0,
        certificates: genesis.keys.iter().flat_map(|k| k.certificates.clone()).collect(),
        genesis,
        statements: BTreeMap::new(),
        genesis_statement: statement,
        retired: session.retirements.iter().any(|r| r.writer == writer),
        // In a bucket, anybody may have written under higher numbers.
        next_batch: if session.store.has_versions() { 0 } else { have.batches.last().map_or(0, |b| b + 1) },
    };
    let mut in_force = vec![InForce { number: 0, from_batch: 0, keys, statement }];
    let after = key_statements(session, writer, have, &mut in_force, &mut summary);
    headers(session, writer, have, &in_force, &mut summary, tasks);
    for (number, batch, statement) in after {
        // The key statement names the last header under the old keys.
        if batch >= summary.next_batch {
            session.find(
                Finding::new(
                    Verdict::Gap,
                    format!("header {batch}, which key statement {number} stands after, is missing"),
                )
                .at(name::batch_key(writer, batch))
                .of(writer),
            );
        }
        if summary.statements.get(&batch).is_some_and(|s| *s != statement) {
            session.find(
                Finding::new(
                    Verdict::Tampered,
                    format!("`after` is not the statement hash of header {batch}"),
                )
                .at(name::keys_key(writer, number))
                .of(writer),
            );
        }
    }
    let named = |r: &&statement::Retirement| {
        // One that never wrote a header is retired by its genesis.
        r.writer == writer && r.batch >= summary.next_batch && r.statement != summary.genesis_statement
    };
    for r in session.retirements.iter().filter(named) {
        let detail = "an operator's retirement names it as the last header, and it is missing";
        session.find(Finding::new(Verdict::Gap, detail).at(name::batch_key(writer, r.batch)).of(writer));
    }
    Some(summary)
}

fn read_genesis(
    session: &Session<'_>,
    writer: &str,
    bytes: &[u8],
) -> Result<(Writer, Vec<PublicKey>, Hash), Bad> {
    let (envelope, keys) = valid::genesis(&session.trail_id, writer, bytes)?;
    session.check_stands(&envelope, bytes)?;
    Ok((valid::payload(&envelope)?, keys, envelope.statement_hash()))
}

/// Whether the trust file vouches for a writer, and why not.
fn is_trusted(session: &Session<'_>, name: &str, genesis: &Writer, keys: &[PublicKey]) -> Result<(), String> {
    let Anchor::File(trust) = &session.options.anchor else { return Ok(()) };
    if trust.pins_one_of(name, keys) {
        return Ok(());
    }
    let stored = |digest: &Hash| match session.named(&name::certificate_key(digest), None, digest, 1 << 20).0
    {
        Picked::Object(b) => Some(b),
        _ => None,
    };
    let chains: Vec<(PublicKey, Vec<Vec<u8>>)> = keys
        .iter()
        .zip(&genesis.keys)
        .map(|(k, w)| (k.clone(), w.certificates.iter().filter_map(stored).collect()))
        .collect();
    let trail_name = session.trail.as_ref().map_or("", |t| t.name.as_str());
    // When somebody outside had first seen it: its own word on when it was made is whoever's that has the key.
    let entry = session.logged(&name::genesis_key(&genesis.writer));
    let seen = entry.and_then(|e| session.anchored.seen_by(e.index));
    let (at, whose) = match seen {
        Some(at) => (at, "when it was first anchored"),
        None => (genesis.created_at, "when it says that it was made"),
    };
    match trust.ca_vouches(trail_name, name, &chains, at, &stored) {
        Ok(true) => Ok(()),
        Ok(false) => Err("nothing in the trust file vouches for this writer".to_owned()),
        Err(e) => Err(format!("its certificates, judged at {at}, {whose}, do not vouch for it: {e}")),
    }
}

/// Checks the key statements; returns what each says it stands after.
fn key_statements(
    session: &Session<'_>,
    writer: &str,
    have: &WriterKeys,
    in_force: &mut Vec<InForce>,
    summary: &mut Summary,
) -> Vec<(u64, u64, Hash)> {
    let mut after = Vec::new();
    let (stored, logged) = (have.keys.last().copied(), session.logged_last(writer).0);
    for number in 1..=stored.max(logged).unwrap_or(0) {
        let key = name::keys_key(writer, number);
        let finding = |v, d: String| Finding::new(v, d).at(&key).of(writer);
        let Some(old) = in_force.last() else { break };
        let (picked, _) = session.pick(&At::key(&key), Some(writer), MAX_ENVELOPE as u64, &|bytes| {
            let (envelope, new) = valid::key_statement(&session.trail_id, writer, number, &old.keys, &bytes)?;
            session.check_stands(&envelope, &bytes)?;
            let statement = envelope.statement_hash();
            Ok(((valid::payload::<Keys>(&envelope)?, new, statement), statement))
        });
        let read = match picked {
            Picked::Object(read) => Ok(read),
            Picked::Missing if stored < Some(number) => {
                session.find(finding(Verdict::Truncated, "the log has it, and the store has not".to_owned()));
                break;
            }
            Picked::Missing if session.is_locked() && session.logged(&key).is_none() => {
                // Under a lock what was there is there: nobody signed the number before.
                session.find(finding(
                    Verdict::Foreign,
                    "a later number is there, and this one never was".to_owned(),
                ));
                break;
            }
            Picked::Missing => {
                session
                    .find(finding(Verdict::Gap, "a key statement is missing below a later one".to_owned()));
                break;
            }
            // Written by whoever may write there; ours goes beside it when there is one.
            Picked::Invalid(d) if session.store.has_versions() && session.logged(&key).is_none() => {
                session.find(finding(Verdict::Foreign, d));
                break;
            }
            Picked::Invalid(d) => Err(Bad::Invalid(d)),
            Picked::Unusable(bad) => Err(bad),
            Picked::Archived(_) => {
                session.find(finding(Verdict::Unreadable, "archived, which it must never be".to_owned()));
                break;
            }
            Picked::Failed => break,
        };
        match read {
            Ok((payload, keys, statement)) => {
                if payload.previous != old.statement {
                    session.find(finding(
                        Verdict::Tampered,
                        "`previous` is not the key statement before".to_owned(),
                    ));
                }
                let from_batch = payload.after.as_ref().map_or(0, |a| a.batch + 1);
                if from_batch < old.from_batch {
                    session
                        .find(finding(Verdict::Inconsistent, "it stands before its predecessor".to_owned()));
                }
                after.extend(payload.after.map(|a| (number, a.batch, a.statement)));
                summary.certificates.extend(payload.keys.iter().flat_map(|k| k.certificates.clone()));
                in_force.push(InForce { number, from_batch, keys, statement });
            }
            Err(bad) => {
                session.find(to_finding(bad, &finding));
                break;
            }
        }
    }
    after
}

fn to_finding(bad: Bad, finding: &dyn Fn(Verdict, String) -> Finding) -> Finding {
    match bad {
        Bad::Invalid(d) => finding(Verdict::Tampered, d),
        Bad::Unknown(d) => finding(Verdict::UnknownFormat, d),
        Bad::Malformed(d) => finding(Verdict::Inconsistent, d),
    }
}

/// So many headers are read at once.
const AHEAD: usize = 128;

fn headers(
    session: &Session<'_>,
    writer: &str,
    have: &WriterKeys,
    in_force: &[InForce],
    summary: &mut Summary,
    tasks: &mut Vec<Task>,
) {
    let mut before: Option<Batch> = None;
    // Whether the header before is known: the first one after a fault has nothing to be compared with.
    let mut linked = true;
    let mut next_by = Some(summary.genesis.next_by);
    let stored = have.batches.last().copied();
    let logged = session.logged_last(writer).1;
    let end = stored.max(logged).map_or(0, |b| b + 1);
    let (mut number, mut ahead) = (0, 0);
    // Missing and invalid headers since the last valid one, each with the last number that it is about.
    let mut faults: Vec<(u64, Finding)> = Vec::new();
    // Headers that are not logged: the first and the last, and when the first was sealed.
    let mut unlogged: Option<(u64, u64, Time)> = None;
    while number < end {
        let at = number;
        let key = name::batch_key(writer, at);
        let finding = |v, d: String| Finding::new(v, d).at(&key).of(writer).batches(at, at);
        let keys = in_force.iter().rev().find(|k| k.from_batch <= number);
        // Gone after its own time, it still stands in the log.
        let expired = match keys {
            Some(keys) if !have.batches.contains(&number) => expired(session, writer, number, keys),
            _ => None,
        };
        let is_there = have.batches.contains(&number) || expired.is_some();
        let (Some(keys), true) = (keys, is_there) else {
            // One finding for a run of missing headers, up to the next that the store or the log has.
            let stored = have.batches.range(number + 1..).next().copied();
            let until =
                stored.into_iter().chain(session.logged_next(writer, number + 1)).min().unwrap_or(end);
            let first = before.as_ref().map_or(0, |b: &Batch| b.events.first_sequence + b.events.count);
            let mut f = finding(
                Verdict::Gap,
                format!("{} header(s) missing: {number} to {}", until - number, until - 1),
            )
            .batches(number, until - 1);
            if linked {
                f = f.sequences(first, first);
            }
            faults.push((until - 1, f));
            linked = false;
            number = until;
            continue;
        };
        if number >= ahead {
            let wanted: Vec<String> =
                have.batches.range(number..).take(AHEAD).map(|n| name::batch_key(writer, *n)).collect();
            ahead = have.batches.range(number..).nth(AHEAD).copied().unwrap_or(end);
            session.read_ahead(&wanted, MAX_ENVELOPE as u64);
        }
        number += 1;
        let (picked, head) = if let Some((header, statement)) = expired {
            let detail = format!("gone after its retention ended at {}; the log has it", header.retain_until);
            session.find(finding(Verdict::Expired, detail));
            (Picked::Object((header, statement)), None)
        } else {
            session.pick(&At::key(&key), Some(writer), MAX_ENVELOPE as u64, &|bytes| {
                let (header, statement) = read_header(session, writer, number - 1, keys, &bytes)?;
                Ok(((header, statement), statement))
            })
        };
        let bad = match picked {
            Picked::Object(found) => Ok(found),
            Picked::Missing => {
                let detail = "the store lists it and does not have it".to_owned();
                faults.push((at, finding(Verdict::Gap, detail)));
                linked = false;
                continue;
            }
            Picked::Archived(_) => {
                session.find(finding(Verdict::Unreadable, "archived, which it must never be".to_owned()));
                linked = false;
                continue;
            }
            Picked::Failed => {
                linked = false;
                continue;
            }
            Picked::Invalid(d) => Err(Bad::Invalid(d)),
            Picked::Unusable(bad) => Err(bad),
        };
        let (header, statement) = match bad {
            Ok(h) => h,
            Err(bad) => {
                let lost = before.as_ref().map(|b| b.events.first_sequence + b.events.count);
                let f = to_finding(bad, &finding);
                let f = match lost {
                    Some(s) if linked => f.sequences(s, s),
                    _ => f,
                };
                faults.push((at, f));
                linked = false;
                continue;
            }
        };
        // A later one makes them what they are.
        faults.drain(..).for_each(|(_, f)| session.find(f));
        let entry = session.logged(&key);
        let ahead = entry.and_then(|e| anchors::is_ahead(&session.anchored, e.index, header.sealed_at));
        if let Some(at) = ahead {
            let detail =
                format!("sealed at {}, and somebody outside has signed it by {at}", header.sealed_at);
            session.find(finding(Verdict::Clock, detail));
        }
        if session.log.is_some() && entry.is_none() {
            let first = unlogged.map_or((at, header.sealed_at), |(n, _, t)| (n, t));
            unlogged = Some((first.0, at, first.1));
        }
        summary.next_batch = summary.next_batch.max(header.batch + 1);
        if linked {
            link(session, summary, before.as_ref(), &header, &finding);
        }
        consistency(session, keys.number, before.as_ref(), &header, &finding);
        if next_by.is_some_and(|t| linked && header.sealed_at > t) {
            let since = next_by.unwrap_or(header.sealed_at);
            session.find(finding(
                Verdict::Silent,
                format!("sealed at {}, and promised by {since}", header.sealed_at),
            ));
        }
        if let Some(trail) = &session.trail {
            let days = i64::try_from(trail.min_retention).unwrap_or(i64::MAX / 86_400);
            if header.retain_until < header.sealed_at.saturating_add_seconds(days.saturating_mul(86_400)) {
                session.find(finding(
                    Verdict::ShortRetention,
                    format!(
                        "retain_until {} is less than {days} days after {}",
                        header.retain_until, header.sealed_at
                    ),
                ));
            }
        }
        session.check_retention(&key, writer, head, header.retain_until);
        summary.statements.insert(header.batch, statement);
        summary.batches += 1;
        summary.records += header.events.count;
        if let Some(object) = &header.object {
            let key = name::events_key(writer, header.batch, header.sealed_at, &object.sha256);
            tasks.push(Task { key, header: header.clone() });
        }
        next_by = header.next_by;
        before = Some(header);
        linked = true;
    }
    for (last, f) in faults {
        let first = f.batches.map_or(last, |[first, _]| first);
        // What was logged was there.
        if logged.is_some_and(|l| first <= l) {
            session.find(match f.verdict {
                Verdict::Gap => Finding {
                    verdict: Verdict::Truncated,
                    detail: format!("the log has headers up to {}; {}", logged.unwrap_or(last), f.detail),
                    ..f
                },
                _ => f,
            });
            continue;
        }
        // Anybody who may write can write under the next numbers of a bucket, and what was locked there is there: above
        // the last valid header nothing is missing, and what is not valid is nobody's.
        match (session.store.has_versions(), f.verdict) {
            (true, Verdict::Gap) => {}
            (true, Verdict::Tampered) => session.find(Finding { verdict: Verdict::Foreign, ..f }),
            _ => session.find(f),
        }
    }
    let last_key =
        before.as_ref().map_or_else(|| name::genesis_key(writer), |b| name::batch_key(writer, b.batch));
    let finding = |v, d: String| {
        let finding = Finding::new(v, d).at(&last_key).of(writer);
        match &before {
            Some(b) => finding.batches(b.batch, b.batch),
            None => finding,
        }
    };
    if let (Some((first, last, since)), Some(trail)) = (unlogged, &session.trail) {
        let delay = trail.max_merge_delay;
        let delay = i64::try_from(delay).unwrap_or(i64::MAX);
        let late = session.options.now > since.saturating_add_seconds(delay);
        let verdict = if late { Verdict::Overdue } else { Verdict::Unanchored };
        let detail = format!(
            "{} header(s) from {first} to {last} are not in the log; the first was sealed at {since}",
            last - first + 1
        );
        session.find(Finding::new(verdict, detail).at(name::batch_key(writer, first)).of(writer));
    }
    match before.as_ref().map_or(State::Running, |b| b.state) {
        State::Retired => summary.retired = true,
        State::Stopped => {
            let at = before.as_ref().map_or(Time::MAX, |b| b.sealed_at);
            session.find(finding(Verdict::Stopped, format!("stopped cleanly at {at}")));
        }
        State::Running if summary.retired => {}
        State::Running => {
            if next_by.is_some_and(|t| session.options.now > t) {
                let t = next_by.unwrap_or(Time::MAX);
                session.find(finding(
                    Verdict::Silent,
                    format!("the next header was promised by {t}; there is none"),
                ));
            }
        }
    }
}

/// A header that is not in the store any more, and need not be: as the log has it.
fn expired(session: &Session<'_>, writer: &str, number: u64, keys: &InForce) -> Option<(Batch, Hash)> {
    let entry = session.logged(&name::batch_key(writer, number))?;
    let bytes = session.log.as_ref()?.entry(entry.index)?;
    let found = read_header(session, writer, number, keys, &bytes).ok()?;
    (session.options.now > found.0.retain_until).then_some(found)
}

fn read_header(
    session: &Session<'_>,
    writer: &str,
    number: u64,
    keys: &InForce,
    bytes: &[u8],
) -> Result<(Batch, Hash), Bad> {
    let envelope = valid::header(&session.trail_id, writer, number, &keys.keys, bytes)?;
    session.check_stands(&envelope, bytes)?;
    Ok((valid::payload::<Batch>(&envelope)?, envelope.statement_hash()))
}

/// Hash and chain links to the header before.
fn link(
    session: &Session<'_>,
    summary: &Summary,
    before: Option<&Batch>,
    h: &Batch,
    finding: &dyn Fn(Verdict, String) -> Finding,
) {
    let e = &h.events;
    let previous = match before {
        Some(b) => summary.statements.get(&b.batch).copied(),
        None => Some(summary.genesis_statement),
    };
    if Some(h.previous) != previous {
        session.find(finding(
            Verdict::Tampered,
            "`previous` is not the statement hash of the header before".to_owned(),
        ));
    }
    let (sequence, hash) = match before {
        Some(b) => (b.events.first_sequence + b.events.count, b.events.last_hash),
        None => (0, summary.genesis_statement),
    };
    if e.first_sequence > sequence {
        session.find(
            finding(Verdict::Gap, format!("sequences {sequence} to {} are missing", e.first_sequence - 1))
                .sequences(sequence, e.first_sequence - 1),
        );
    } else if e.first_sequence < sequence {
        session.find(finding(
            Verdict::Inconsistent,
            format!("it begins at sequence {}, which was sealed before", e.first_sequence),
        ));
    } else if e.previous_hash != hash {
        session.find(finding(
            Verdict::Tampered,
            "its records do not follow the chain of the header before".to_owned(),
        ));
    }
}

/// What a header says against the page, by itself and after the one before.
fn consistency(
    session: &Session<'_>,
    keys: u64,
    before: Option<&Batch>,
    h: &Batch,
    finding: &dyn Fn(Verdict, String) -> Finding,
) {
    let say = |what: &str| session.find(finding(Verdict::Inconsistent, what.to_owned()));
    let e = &h.events;
    if h.keys != keys {
        say("`keys` is not the number of the key statement in force");
    }
    if h.next_by.is_some() != (h.state == State::Running) {
        say("`next_by` stands there while running, and only then");
    }
    let empty = e.count == 0;
    if empty && (e.last_hash != e.previous_hash || e.merkle_root != Hash::empty() || e.record_bytes != 0) {
        say("an empty batch with a hash or bytes of records");
    }
    if empty != h.object.is_none()
        || empty != e.first_timestamp.is_none()
        || empty != e.last_timestamp.is_none()
    {
        say("object and timestamps stand there if there are records, and only then");
    }
    if e.count > waxseal_events::MAX_RECORDS || e.record_bytes > waxseal_events::MAX_RECORD_BYTES {
        say("more records, or bytes of them, than a batch may have");
    }
    if h.retain_until.subsec_nanos() != 0 {
        say("retain_until is no whole second");
    }
    if h.boot == 0 {
        say("boot counts from 1");
    }
    if let Some(b) = before {
        if h.sealed_at < b.sealed_at {
            say("sealed_at goes back");
        }
        if h.boot < b.boot {
            say("boot goes back");
        }
        if b.state == State::Retired {
            say("a batch after `retired`");
        }
    }
    let zero = statement::Intake::default();
    let (new, old) = (&h.intake, before.map_or(&zero, |b| &b.intake));
    let back = new.received < old.received
        || new.redelivered < old.redelivered
        || new.unparsed < old.unparsed
        || new.filter_errors < old.filter_errors
        || new.declared_lost < old.declared_lost;
    if back {
        say("a total of `intake` decreases");
    } else if before.is_none_or(|b| b.batch + 1 == h.batch) && new.received - old.received > e.count {
        say("`received` grows by more than the batch has records");
    }
    let lost = |i: &statement::Intake| i.declared_lost.unwrap_or(0);
    if lost(new) > lost(old) {
        session
            .find(finding(Verdict::DeclaredLoss, format!("the shipper says it lost {} events", lost(new))));
    }
}

/// Predecessors and earlier epochs without a retirement.
pub(crate) fn check_epochs(session: &Session<'_>, inventory: &Inventory, checked: &[Summary]) {
    let by_writer: HashMap<&str, &Summary> = checked.iter().map(|s| (&s.writer[..], s)).collect();
    // Epochs of one name sort by their beginning: the first of each that has not retired.
    let mut unretired: HashMap<&str, &Summary> = HashMap::new();
    for s in checked.iter().filter(|s| !s.retired) {
        if let Some((name, _)) = name::split_writer(&s.writer) {
            let first = unretired.entry(name).or_insert(s);
            if s.writer < first.writer {
                *first = s;
            }
        }
    }
    for s in checked {
        let key = name::genesis_key(&s.writer);
        let finding = |v, d: String| Finding::new(v, d).at(&key).of(&s.writer);
        if let Some(p) = &s.genesis.predecessor {
            let known = by_writer.get(&p.writer[..]).copied();
            let retired =
                known.is_some_and(|k| k.retired) || session.retirements.iter().any(|r| r.writer == p.writer);
            // With `--writer <name>.<epoch>` the one before was not looked at.
            let asked =
                session.options.writer.as_ref().is_none_or(|w| {
                    *w == p.writer || name::split_writer(&p.writer).is_some_and(|(n, _)| n == w)
                });
            if asked && known.is_none() && !inventory.writers.get(&p.writer).is_some_and(|k| k.genesis) {
                let detail = format!("{} names it as its predecessor, and it is missing", s.writer);
                let missing = Finding::new(Verdict::Gap, detail);
                session.find(missing.at(name::genesis_key(&p.writer)).of(&p.writer));
            }
            if asked && !retired {
                let detail = format!(
                    "its predecessor {} has no retirement: an operator has to say that it is known",
                    p.writer
                );
                session.find(finding(Verdict::Abandoned, detail).about(&p.writer));
            }
            if let (Some(k), Some(b)) = (known, p.batch)
                && k.next_batch <= b
            {
                let detail =
                    format!("{} names it as its predecessor's last header, and it is missing", s.writer);
                session
                    .find(Finding::new(Verdict::Gap, detail).at(name::batch_key(&p.writer, b)).of(&p.writer));
            }
            let named = known.and_then(|k| match p.batch {
                Some(b) => k.statements.get(&b).copied(),
                None => Some(k.genesis_statement),
            });
            if named.is_some_and(|h| h != p.statement) {
                session.find(finding(
                    Verdict::Tampered,
                    format!("its predecessor {} has another last header", p.writer),
                ));
            }
        }
        let passed_over = name::split_writer(&s.writer)
            .and_then(|(name, _)| unretired.get(name))
            .filter(|o| o.writer < s.writer);
        if let (Reason::First, Some(o)) = (s.genesis.reason, passed_over) {
            let detail = format!("the earlier epoch {} is passed over", o.writer);
            session.find(finding(Verdict::Abandoned, detail).about(&o.writer));
        }
    }
}
