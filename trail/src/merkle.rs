//! The RFC 6962 Merkle tree: tree heads, inclusion proofs, consistency proofs.
//!
//! Heads are made in one pass with a stack of complete subtrees, so a batch of a million records needs
//! twenty hashes of memory. Proofs work on the list of leaf hashes.

use crate::hash::{Hash, node_hash};
use core::convert::Infallible;

/// Makes a tree head from leaf hashes that arrive one by one.
#[derive(Clone, Debug, Default)]
pub struct TreeHead {
    /// Roots of complete subtrees, largest first; the set bits of `size` are their sizes.
    stack: Vec<Hash>,
    size: u64,
}

impl TreeHead {
    /// Adds the next leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut n = self.size;
        while n & 1 == 1 {
            // The invariant of `stack` gives a subtree for every set bit of `size`.
            let Some(left) = self.stack.pop() else { break };
            hash = node_hash(&left, &hash);
            n >>= 1;
        }
        self.stack.push(hash);
        self.size += 1;
    }

    /// How many leaves there are.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The tree head (RFC 6962 section 2.1) of the leaves so far.
    pub fn root(&self) -> Hash {
        self.before(None).unwrap_or_else(Hash::empty)
    }

    /// The tree head of these leaves and, to the right of them, what has the root `right`; `None` if there is nothing.
    pub(crate) fn before(&self, right: Option<Hash>) -> Option<Hash> {
        self.stack.iter().rev().fold(right, |right, left| Some(right.map_or(*left, |r| node_hash(left, &r))))
    }
}

impl<'h> FromIterator<&'h Hash> for TreeHead {
    fn from_iter<I: IntoIterator<Item = &'h Hash>>(leaves: I) -> TreeHead {
        let mut head = TreeHead::default();
        leaves.into_iter().for_each(|l| head.push(*l));
        head
    }
}

/// The tree head of a list of leaf hashes.
pub fn root(leaves: &[Hash]) -> Hash {
    leaves.iter().collect::<TreeHead>().root()
}

/// The largest power of two smaller than `n`, for `n` ≥ 2.
pub(crate) fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The audit path (RFC 6962 section 2.1.1) of the leaf `index`, from the leaf upwards; `None` if there is no
/// such leaf.
pub fn inclusion_proof(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    let of = |start: u64, end: u64| Ok::<_, Infallible>(root(&leaves[start as usize..end as usize]));
    let Ok(path) = inclusion_path(leaves.len() as u64, index as u64, of);
    path
}

/// The same of `size` leaves, where `root` has the tree head of those from `start` to `end`, a part that the tree's own division
/// makes.
///
/// # Errors
/// What `root` says.
pub(crate) fn inclusion_path<E>(
    size: u64,
    index: u64,
    mut root: impl FnMut(u64, u64) -> Result<Hash, E>,
) -> Result<Option<Vec<Hash>>, E> {
    if index >= size {
        return Ok(None);
    }
    let mut path = Vec::new();
    let (mut start, mut end) = (0, size);
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            path.push(root(middle, end)?);
            end = middle;
        } else {
            path.push(root(start, middle)?);
            start = middle;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// Whether `path` shows that `leaf` is number `index` of the `size` leaves under `head` (RFC 9162 section 2.1.3.2).
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, path: &[Hash], head: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut f, mut s, mut r) = (index, size - 1, *leaf);
    for p in path {
        if s == 0 {
            return false;
        }
        if f & 1 == 1 || f == s {
            r = node_hash(p, &r);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            r = node_hash(&r, p);
        }
        f >>= 1;
        s >>= 1;
    }
    s == 0 && r == *head
}

/// The consistency proof (RFC 6962 section 2.1.2) from the first `old` leaves to all of them; `None` unless
/// 0 < `old` ≤ the number of leaves.
pub fn consistency_proof(leaves: &[Hash], old: usize) -> Option<Vec<Hash>> {
    let of = |start: u64, end: u64| Ok::<_, Infallible>(root(&leaves[start as usize..end as usize]));
    let Ok(proof) = consistency_path(leaves.len() as u64, old as u64, of);
    proof
}

/// The same of `size` leaves; `root` as for [`inclusion_path`].
///
/// # Errors
/// What `root` says.
pub(crate) fn consistency_path<E>(
    size: u64,
    old: u64,
    mut root: impl FnMut(u64, u64) -> Result<Hash, E>,
) -> Result<Option<Vec<Hash>>, E> {
    if old == 0 || old > size {
        return Ok(None);
    }
    let mut proof = Vec::new();
    let (mut start, mut end, mut whole) = (0, size, true);
    while old < end {
        let middle = start + split(end - start);
        if old <= middle {
            proof.push(root(middle, end)?);
            end = middle;
        } else {
            proof.push(root(start, middle)?);
            start = middle;
            whole = false;
        }
    }
    if !whole {
        proof.push(root(start, end)?);
    }
    proof.reverse();
    Ok(Some(proof))
}

/// Whether `proof` shows that the tree `old_head` of `old` leaves is a prefix of `new_head` of `new` leaves
/// (RFC 9162 section 2.1.4.2).
pub fn verify_consistency(old: u64, old_head: &Hash, new: u64, new_head: &Hash, proof: &[Hash]) -> bool {
    if old == 0 || old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_head == new_head;
    }
    let mut path = proof.iter();
    let first = if old.is_power_of_two() {
        *old_head
    } else {
        match path.next() {
            Some(h) => *h,
            None => return false,
        }
    };
    let (mut f, mut s) = (old - 1, new - 1);
    while f & 1 == 1 {
        f >>= 1;
        s >>= 1;
    }
    let (mut fr, mut sr) = (first, first);
    for c in path {
        if s == 0 {
            return false;
        }
        if f & 1 == 1 || f == s {
            fr = node_hash(c, &fr);
            sr = node_hash(c, &sr);
            while f & 1 == 0 && f != 0 {
                f >>= 1;
                s >>= 1;
            }
        } else {
            sr = node_hash(&sr, c);
        }
        f >>= 1;
        s >>= 1;
    }
    s == 0 && fr == *old_head && sr == *new_head
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hash::leaf_hash;

    /// The eight leaves and the tree heads published with Certificate Transparency's own tests.
    const LEAVES: [&str; 8] =
        ["", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f"];
    const ROOTS: [&str; 8] = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];

    fn published() -> Vec<Hash> {
        LEAVES.iter().map(|l| leaf_hash(&data_encoding::HEXLOWER.decode(l.as_bytes()).unwrap())).collect()
    }

    #[test]
    fn published_heads() {
        let leaves = published();
        assert_eq!(root(&[]), Hash::empty());
        for n in 1..=8 {
            assert_eq!(root(&leaves[..n]).to_string(), ROOTS[n - 1]);
        }
    }

    #[test]
    fn every_proof_of_small_trees() {
        let leaves: Vec<Hash> = (0u8..40).map(|i| leaf_hash(&[i])).collect();
        for n in 1..=leaves.len() {
            let head = root(&leaves[..n]);
            for i in 0..n {
                let path = inclusion_proof(&leaves[..n], i).unwrap();
                assert!(verify_inclusion(&leaves[i], i as u64, n as u64, &path, &head));
                assert!(!verify_inclusion(&leaves[(i + 1) % 40], i as u64, n as u64, &path, &head));
                if n > 1 {
                    assert!(!verify_inclusion(&leaves[i], i as u64, n as u64, &path[1..], &head));
                    let other = (i + 1) % n;
                    assert!(!verify_inclusion(&leaves[i], other as u64, n as u64, &path, &head));
                }
            }
            for old in 1..=n {
                let proof = consistency_proof(&leaves[..n], old).unwrap();
                let old_head = root(&leaves[..old]);
                assert!(verify_consistency(old as u64, &old_head, n as u64, &head, &proof), "{old} {n}");
                assert!(!verify_consistency(old as u64, &leaf_hash(b"x"), n as u64, &head, &proof));
                for k in 0..proof.len() {
                    let mut bad = proof.clone();
                    bad[k].0[0] ^= 1;
                    assert!(!verify_consistency(old as u64, &old_head, n as u64, &head, &bad));
                }
            }
        }
        assert_eq!(inclusion_proof(&leaves, 40), None);
        assert_eq!(consistency_proof(&leaves, 0), None);
        assert_eq!(consistency_proof(&leaves, 41), None);
    }
}
