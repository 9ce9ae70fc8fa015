//! Writes trails by hand, right or wrong: every statement can be bent before it is signed.
//!
//! It shares the format's building blocks with the sink, but not the sink's way of using them.

use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use waxseal_events::{Identity, Writer as Parquet};
use waxseal_sink::signer::{self, Signer};
use waxseal_trail::envelope::Envelope;
use waxseal_trail::hash::{Hash, leaf_hash, sha256};
use waxseal_trail::merkle;
use waxseal_trail::name;
use waxseal_trail::record::{Checker, Columns, Converter, Events, Link, Template};
use waxseal_trail::statement::{
    self, After, Batch, BatchEvents, BatchObject, Intake, Keys, Lock, Payload, Reason, State, Trail, Writer,
    WriterKey,
};
use waxseal_trail::time::Time;

/// A set of signers.
pub type Signers = Vec<Arc<dyn Signer>>;

/// Objects by key.
pub type Objects = BTreeMap<String, Vec<u8>>;

/// Seconds after 2026-01-15T10:00:00Z.
pub fn at(seconds: i64) -> Time {
    Time::from_unix(1_768_471_200 + seconds, 0).unwrap_or(Time::MAX)
}

/// A signed envelope.
pub fn sign<P: Payload>(payload: &P, signers: &[Arc<dyn Signer>]) -> Envelope {
    let mut e = statement::unsigned(payload);
    signer::sign(&mut e, signers).expect("memory keys sign");
    e
}

/// A trail statement and its id.
pub fn trail(name: &str, operators: &Signers) -> (Trail, Envelope) {
    trail_of(name, operators, &vec![])
}

/// The same, with workers.
pub fn trail_of(name: &str, operators: &Signers, workers: &Signers) -> (Trail, Envelope) {
    let keys = |s: &Signers| s.iter().map(|k| k.public().to_base64()).collect();
    let payload = Trail {
        format: statement::format_of::<Trail>(),
        name: name.to_owned(),
        origin: format!("example.com/{name}"),
        lock: Lock::None,
        min_retention: 2555,
        max_merge_delay: 86_400,
        nonce: data_encoding::BASE64URL_NOPAD.encode(&sha256(name.as_bytes()).0[..16]),
        created_at: at(-9),
        operators: keys(operators),
        workers: keys(workers),
    };
    let envelope = sign(&payload, operators);
    (payload, envelope)
}

/// One writer, as it goes on.
#[derive(Clone)]
pub struct Forge {
    /// The trail id.
    pub trail: Hash,
    /// `<name>.<epoch>`
    pub writer: String,
    /// The signers in force.
    pub signers: Signers,
    /// The genesis payload.
    pub genesis: Writer,
    /// The statement hash of the last header or the genesis.
    pub previous: Hash,
    /// `H` of the last record or the genesis payload.
    pub last_hash: Hash,
    /// The next sequence.
    pub sequence: u64,
    /// The next batch.
    pub batch: u64,
    /// The number of the key statement in force, and its statement hash.
    pub keys: (u64, Hash),
    /// Totals.
    pub intake: Intake,
    /// Everything made so far.
    pub objects: Objects,
}

fn writer_keys(signers: &Signers) -> Vec<WriterKey> {
    signers.iter().map(|s| WriterKey { spki: s.public().to_base64(), certificates: vec![] }).collect()
}

/// A record and what its columns are.
pub type Row = (Vec<u8>, Columns);

impl Forge {
    /// A writer with its genesis, `created` seconds after the kit's beginning.
    pub fn new(
        trail: Hash,
        writer: &str,
        signers: Signers,
        created: i64,
        bend: impl FnOnce(&mut Writer),
    ) -> Forge {
        let mut genesis = Writer {
            format: statement::format_of::<Writer>(),
            trail,
            writer: writer.to_owned(),
            created_at: at(created),
            next_by: at(created + 1800),
            reason: Reason::First,
            predecessor: None,
            keys: writer_keys(&signers),
            software: "forge/1".to_owned(),
        };
        bend(&mut genesis);
        let envelope = sign(&genesis, &signers);
        let hash = envelope.statement_hash();
        let mut objects = Objects::new();
        objects.insert(name::genesis_key(writer), envelope.to_bytes().expect("small"));
        Forge {
            trail,
            writer: writer.to_owned(),
            signers,
            genesis,
            previous: hash,
            last_hash: hash,
            sequence: 0,
            batch: 0,
            keys: (0, hash),
            intake: Intake::default(),
            objects,
        }
    }

    /// The next records of these inputs, chained.
    pub fn rows(&mut self, inputs: &[&[u8]], observed: i64) -> Vec<Row> {
        let (mut converter, mut events) = (Converter::default(), Events::default());
        inputs.iter().for_each(|i| converter.json(i, &mut events));
        self.chain(&events, observed)
    }

    /// The next records of converted events, chained.
    pub fn chain(&mut self, events: &Events, observed: i64) -> Vec<Row> {
        let template = Template::new(&self.writer);
        (0..events.len())
            .map(|i| {
                let digest = sha256(format!("{} {}", self.writer, self.sequence).as_bytes()).0;
                let mut link = Link {
                    sequence: self.sequence,
                    previous_hash: self.last_hash,
                    observed_at: at(observed),
                    nonce: [0; 16],
                    id_bits: [0; 10],
                };
                link.nonce.copy_from_slice(&digest[..16]);
                link.id_bits.copy_from_slice(&digest[16..26]);
                let mut record = Vec::new();
                let source = b"{\"intake\":\"http\",\"peer\":\"192.0.2.7\"}";
                let (columns, _) = template.assemble(events, i, source, &link, &mut record);
                self.last_hash = leaf_hash(&record);
                self.sequence += 1;
                self.intake.received += 1;
                self.intake.unparsed += u64::from(events.is_unparsed(i));
                (record, columns)
            })
            .collect()
    }

    /// Seals rows as the next batch; `bend` changes the header before it is signed.
    pub fn seal(&mut self, rows: &[Row], sealed: i64, bend: impl FnOnce(&mut Batch)) -> Batch {
        let first = self.sequence - rows.len() as u64;
        self.seal_as(rows, first, sealed, bend)
    }

    /// [`Forge::seal`] with a first sequence of its own.
    pub fn seal_as(&mut self, rows: &[Row], first: u64, sealed: i64, bend: impl FnOnce(&mut Batch)) -> Batch {
        let mut checker = Checker::default();
        let leaves: Vec<Hash> = rows.iter().map(|(r, _)| leaf_hash(r)).collect();
        let views: Vec<_> = rows
            .iter()
            .filter_map(|(r, _)| checker.check(r).ok().map(|v| (v.previous_hash, v.timestamp)))
            .collect();
        let object = (!rows.is_empty()).then(|| {
            let identity =
                Identity { trail: &self.trail, writer: &self.writer, batch: self.batch, software: "forge/1" };
            let mut p = Parquet::new(&identity).expect("our schema");
            for (i, (record, columns)) in rows.iter().enumerate() {
                p.push(Bytes::from(record.clone()), first + i as u64, columns).expect("in memory");
            }
            p.finish().expect("in memory")
        });
        let mut header = Batch {
            format: statement::format_of::<Batch>(),
            trail: self.trail,
            writer: self.writer.clone(),
            batch: self.batch,
            previous: self.previous,
            keys: self.keys.0,
            boot: 1,
            state: State::Running,
            next_by: Some(at(sealed + 1800)),
            events: BatchEvents {
                count: rows.len() as u64,
                first_sequence: first,
                previous_hash: views.first().map_or(self.last_hash, |v| v.0),
                last_hash: leaves.last().copied().unwrap_or(self.last_hash),
                merkle_root: merkle::root(&leaves),
                record_bytes: rows.iter().map(|r| r.0.len() as u64).sum(),
                columns: 1,
                first_timestamp: views.iter().map(|v| v.1).min(),
                last_timestamp: views.iter().map(|v| v.1).max(),
            },
            object: object.as_ref().map(|o| BatchObject { sha256: sha256(o), bytes: o.len() as u64 }),
            filters: vec![],
            intake: self.intake,
            clock: None,
            sealed_at: at(sealed),
            retain_until: at(sealed + 2555 * 86_400),
            software: "forge/1".to_owned(),
        };
        bend(&mut header);
        if header.state != State::Running {
            header.next_by = None;
        }
        let envelope = sign(&header, &self.signers);
        self.previous = envelope.statement_hash();
        self.batch += 1;
        self.objects.insert(name::batch_key(&self.writer, header.batch), envelope.to_bytes().expect("small"));
        if let (Some(bytes), Some(o)) = (object, &header.object) {
            self.objects
                .insert(name::events_key(&self.writer, header.batch, header.sealed_at, &o.sha256), bytes);
        }
        header
    }

    /// New keys, stated by the old and the new.
    pub fn rotate(&mut self, new: Signers, bend: impl FnOnce(&mut Keys)) {
        let mut payload = Keys {
            format: statement::format_of::<Keys>(),
            trail: self.trail,
            writer: self.writer.clone(),
            number: self.keys.0 + 1,
            previous: self.keys.1,
            after: self.batch.checked_sub(1).map(|batch| After { batch, statement: self.previous }),
            keys: writer_keys(&new),
        };
        bend(&mut payload);
        let both: Signers = self.signers.iter().chain(&new).cloned().collect();
        let envelope = sign(&payload, &both);
        self.keys = (payload.number, envelope.statement_hash());
        self.objects
            .insert(name::keys_key(&self.writer, payload.number), envelope.to_bytes().expect("small"));
        self.signers = new;
    }
}

impl Forge {
    /// The statement hash of the genesis.
    pub fn genesis_hash(&self) -> Hash {
        let bytes = &self.objects[&name::genesis_key(&self.writer)];
        Envelope::parse(bytes).expect("made here").statement_hash()
    }
}
