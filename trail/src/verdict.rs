//! Verdicts and findings (FORMAT section 7).

use serde::{Deserialize, Serialize};

/// What a verifier says of a trail or of an object in it. The order is the page's: the strongest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[allow(missing_docs)] // the page's table is their meaning
pub enum Verdict {
    Tampered,
    Fork,
    Rollback,
    Truncated,
    Gap,
    Inconsistent,
    Silent,
    Abandoned,
    Overdue,
    Stale,
    Untrusted,
    ShortRetention,
    DeclaredLoss,
    UnknownFormat,
    OtherTrail,
    Unreadable,
    ChainNotChecked,
    Unanchored,
    Stopped,
    Expired,
    Erased,
    Archived,
    Foreign,
    Clock,
    Acknowledged,
    Ok,
}

impl Verdict {
    /// The name, as in the page and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Tampered => "TAMPERED",
            Verdict::Fork => "FORK",
            Verdict::Rollback => "ROLLBACK",
            Verdict::Truncated => "TRUNCATED",
            Verdict::Gap => "GAP",
            Verdict::Inconsistent => "INCONSISTENT",
            Verdict::Silent => "SILENT",
            Verdict::Abandoned => "ABANDONED",
            Verdict::Overdue => "OVERDUE",
            Verdict::Stale => "STALE",
            Verdict::Untrusted => "UNTRUSTED",
            Verdict::ShortRetention => "SHORT_RETENTION",
            Verdict::DeclaredLoss => "DECLARED_LOSS",
            Verdict::UnknownFormat => "UNKNOWN_FORMAT",
            Verdict::OtherTrail => "OTHER_TRAIL",
            Verdict::Unreadable => "UNREADABLE",
            Verdict::ChainNotChecked => "CHAIN_NOT_CHECKED",
            Verdict::Unanchored => "UNANCHORED",
            Verdict::Stopped => "STOPPED",
            Verdict::Expired => "EXPIRED",
            Verdict::Erased => "ERASED",
            Verdict::Archived => "ARCHIVED",
            Verdict::Foreign => "FOREIGN",
            Verdict::Clock => "CLOCK",
            Verdict::Acknowledged => "ACKNOWLEDGED",
            Verdict::Ok => "OK",
        }
    }

    /// The exit status that a finding of this verdict asks for: 1 a fault, 2 the check could not be made,
    /// 0 listed only.
    pub fn exit(self) -> u8 {
        match self {
            v if v <= Verdict::DeclaredLoss => 1,
            v if v <= Verdict::ChainNotChecked => 2,
            _ => 0,
        }
    }
}

impl core::fmt::Display for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.pad(self.name())
    }
}

/// One finding of a verifier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What.
    pub verdict: Verdict,
    /// The key of the object it was found at, if it was at one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// The writer, `<name>.<epoch>`, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub writer: Option<String>,
    /// First and last sequence concerned, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sequences: Option<[u64; 2]>,
    /// What happened, and what to do.
    pub detail: String,
    /// First and last batch concerned, where known: what an acknowledgement names.
    #[serde(skip)]
    pub batches: Option<[u64; 2]>,
    /// A writer that it is about beside `writer`.
    #[serde(skip)]
    pub about: Option<String>,
}

impl Finding {
    /// A finding about nothing in particular.
    pub fn new(verdict: Verdict, detail: impl Into<String>) -> Finding {
        Finding {
            verdict,
            object: None,
            writer: None,
            sequences: None,
            detail: detail.into(),
            batches: None,
            about: None,
        }
    }

    /// At this object.
    #[must_use]
    pub fn at(mut self, object: impl Into<String>) -> Finding {
        self.object = Some(object.into());
        self
    }

    /// About this writer.
    #[must_use]
    pub fn of(mut self, writer: impl Into<String>) -> Finding {
        self.writer = Some(writer.into());
        self
    }

    /// About these batches.
    #[must_use]
    pub fn batches(mut self, first: u64, last: u64) -> Finding {
        self.batches = Some([first, last]);
        self
    }

    /// About this writer, too.
    #[must_use]
    pub fn about(mut self, writer: impl Into<String>) -> Finding {
        self.about = Some(writer.into());
        self
    }

    /// About these sequences.
    #[must_use]
    pub fn sequences(mut self, first: u64, last: u64) -> Finding {
        self.sequences = Some([first, last]);
        self
    }
}

/// The exit status of a check: 1 wins over 2, 2 over 0; under `strict` every finding counts.
pub fn exit_status(findings: &[Finding], strict: bool) -> u8 {
    let exits = |s: u8| findings.iter().any(|f| f.verdict.exit() == s);
    if exits(1) {
        1
    } else if exits(2) {
        2
    } else {
        u8::from(strict && !findings.is_empty())
    }
}

/// The strongest verdict among findings that ask for an exit status; `OK` if none does.
pub fn strongest(findings: &[Finding]) -> Verdict {
    let first = |s: u8| findings.iter().map(|f| f.verdict).filter(|v| v.exit() == s).min();
    first(1).or_else(|| first(2)).unwrap_or(Verdict::Ok)
}
