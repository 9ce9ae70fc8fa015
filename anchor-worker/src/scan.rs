//! What lies under a prefix, in pieces of bounded size: whoever may write there decides how much it is.

use std::collections::HashMap;
use waxseal_store::{Kind, Mark, Store, StoreError};
use waxseal_trail::envelope::MAX_ENVELOPE;
use waxseal_trail::hash::sha256;

/// So many versions are read at once: with the largest envelopes, 8 MB.
pub(crate) const AHEAD: usize = 128;
/// Of so many versions of one key, the oldest, it is known which they are.
const MAX_VERSIONS: usize = 100_000;
/// So many versions are remembered as nobody's.
const MAX_JUDGED: usize = 1_000_000;

/// A version that could be an envelope by its size.
pub(crate) struct Slot {
    pub(crate) id: Option<String>,
    pub(crate) bytes: Option<u64>,
}

/// A key that a listing shows, and its versions, the oldest first; no delete markers.
pub(crate) struct Listed {
    pub(crate) key: String,
    pub(crate) versions: Vec<Slot>,
    /// Whether there are versions that are too large, or too many to look at.
    pub(crate) others: bool,
}

/// A key while its versions come in, the newest first.
struct Open {
    listed: Listed,
    live: usize,
}

impl Open {
    fn new(key: String) -> Open {
        Open { listed: Listed { key, versions: Vec::new(), others: false }, live: 0 }
    }

    fn add(&mut self, id: Option<String>, bytes: Option<u64>) {
        self.live += 1;
        let Listed { versions, others, .. } = &mut self.listed;
        if bytes.is_none_or(|n| n <= MAX_ENVELOPE as u64) {
            versions.push(Slot { id, bytes });
        } else {
            *others = true;
        }
        if versions.len() >= 2 * MAX_VERSIONS {
            // The newest came first.
            versions.drain(..MAX_VERSIONS);
            *others = true;
        }
    }
}

/// All keys under a prefix behind `after`, those too that a delete marker hides, in pieces of about [`AHEAD`] versions; or only
/// the first `pages` pages of the listing: behind which key it goes on, then. `wanted` is asked with the number of versions.
pub(crate) fn each_piece<E: From<StoreError>>(
    store: &dyn Store,
    prefix: &str,
    after: Option<String>,
    pages: usize,
    wanted: &mut dyn FnMut(&str, usize) -> bool,
    each: &mut dyn FnMut(Vec<Listed>) -> Result<(), E>,
) -> Result<Option<String>, E> {
    let mut mark = after.map(|key| Mark { key, version: None });
    let (mut piece, mut size): (Vec<Listed>, usize) = (Vec::new(), 0);
    let mut open: Option<Open> = None;
    let mut whole: Option<String> = None;
    let mut goes_on = false;
    for count in 1.. {
        let page = store.list_versions(prefix, mark.as_ref())?;
        for v in page.versions {
            if open.as_ref().is_none_or(|o| o.listed.key != v.key) {
                whole = open.as_ref().map(|o| o.listed.key.clone()).or(whole);
                close(&mut open, &mut piece, &mut size, wanted);
                if size >= AHEAD {
                    each(std::mem::take(&mut piece))?;
                    size = 0;
                }
                open = Some(Open::new(v.key.clone()));
            }
            if let Some(o) = open.as_mut().filter(|_| !v.delete_marker) {
                o.add(v.id, v.bytes);
            }
        }
        match page.next {
            Some(next) if mark.as_ref() == Some(&next) => {
                let why = std::io::Error::other("the listing does not move on");
                return Err(StoreError::new("list", prefix, Kind::Unavailable, why).into());
            }
            // The last key comes again, unless it is so long that it is all there is.
            Some(_) if count >= pages => {
                goes_on = true;
                open = open.filter(|_| whole.is_none());
                break;
            }
            Some(next) => mark = Some(next),
            None => break,
        }
    }
    let last = whole.or_else(|| open.as_ref().map(|o| o.listed.key.clone()));
    close(&mut open, &mut piece, &mut size, wanted);
    if !piece.is_empty() {
        each(piece)?;
    }
    Ok(last.filter(|_| goes_on))
}

fn close(
    open: &mut Option<Open>,
    piece: &mut Vec<Listed>,
    size: &mut usize,
    wanted: &mut dyn FnMut(&str, usize) -> bool,
) {
    let Some(Open { mut listed, live }) = open.take() else { return };
    if live == 0 || !wanted(&listed.key, live) {
        return;
    }
    let over = listed.versions.len().saturating_sub(MAX_VERSIONS);
    listed.others |= over > 0;
    listed.versions.drain(..over);
    listed.versions.reverse();
    *size += listed.versions.len().max(1);
    piece.push(listed);
}

/// Versions that were looked at and are nobody's, so that junk is read once and not in each round. It may be lost.
#[derive(Default)]
pub(crate) struct Judged(HashMap<[u8; 16], bool>);

impl Judged {
    /// `keys`: how many key statements of the writer were known; with another one it may be judged otherwise.
    fn id(key: &str, version: &str, keys: u64) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&sha256(format!("{key}\n{version}\n{keys}").as_bytes()).0[..16]);
        id
    }

    /// Whether it was judged; then, whether nothing vouches for its keys, rather than that it is no statement at all.
    pub(crate) fn get(&self, key: &str, version: &str, keys: u64) -> Option<bool> {
        self.0.get(&Self::id(key, version, keys)).copied()
    }

    pub(crate) fn insert(&mut self, key: &str, version: &str, keys: u64, untrusted: bool) {
        if self.0.len() >= MAX_JUDGED {
            self.0.clear();
        }
        self.0.insert(Self::id(key, version, keys), untrusted);
    }

    /// Everything has to be judged again.
    pub(crate) fn forget(&mut self) {
        self.0.clear();
    }
}
