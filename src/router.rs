//! Owns: which shard a key belongs to.
//! Never: roles, leases, who leads a shard, where a shard's nodes are.

use std::hash::Hasher;
use std::num::NonZeroU64;

use crate::config::Cluster;
use crate::id::ShardId;

/// Key → shard: FNV-1a, 64 bits, of the decoded key's bytes, modulo the number of shards. The rule is part of the
/// data: another hash, or another number of shards, would look for every key elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Router {
    shards: NonZeroU64,
}

impl Router {
    /// The routes of a cluster.
    #[must_use]
    pub fn new(cluster: &Cluster) -> Router {
        Router::of(cluster.shards().len())
    }

    /// The routes of any cluster of so many shards: at least one, and fewer than 2^32.
    #[must_use]
    pub fn of(shards: usize) -> Router {
        assert!(u32::try_from(shards).is_ok(), "a shard's idx is 32 bits wide");
        let shards = NonZeroU64::new(shards as u64);
        Router { shards: shards.expect("a cluster has at least one shard") }
    }

    /// The shard that a key belongs to.
    #[must_use]
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        self.shard_of_hash(hash(key))
    }

    /// The shard of a key whose [`hash`] is known.
    #[must_use]
    pub fn shard_of_hash(&self, hash: u64) -> ShardId {
        // Smaller than the number of shards, which fits 32 bits.
        ShardId((hash % self.shards) as u32)
    }
}

/// FNV-1a, 64 bits.
#[must_use]
pub fn hash(key: &[u8]) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(key);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FNV-1, which multiplies before it mixes in the byte: what this is not.
    fn fnv1(key: &[u8]) -> u64 {
        key.iter().fold(0xcbf2_9ce4_8422_2325, |h: u64, b| h.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*b))
    }

    #[test]
    fn the_hash_is_fnv1a_by_its_published_vectors() {
        for (key, want) in [
            (&b""[..], 0xcbf2_9ce4_8422_2325),
            (b"a", 0xaf63_dc4c_8601_ec8c),
            (b"b", 0xaf63_df4c_8601_f1a5),
            (b"foobar", 0x8594_4171_f739_67e8),
            (b"\0", 0xaf63_bd4c_8601_b7df),
            (b"chongo was here!\n", 0x4681_0940_eff5_f915),
        ] {
            assert_eq!(hash(key), want, "{key:?}");
        }
    }

    #[test]
    fn the_hash_is_not_fnv1() {
        assert_eq!(fnv1(b"a"), 0xaf63_bd4c_8601_b7be);
        assert_eq!(fnv1(b"foobar"), 0x340d_8765_a4dd_a9c2);
        for key in [&b"a"[..], b"foobar", b"user:1", b"\xff\x00"] {
            assert_ne!(hash(key), fnv1(key), "{key:?}");
        }
    }

    #[test]
    fn the_shard_is_the_hash_modulo_the_number_of_shards() {
        let router = Router::of(4);
        for (key, shard) in [(&b"a"[..], 0), (b"b", 1), (b"foobar", 0), (b"", 1), (b"chongo was here!\n", 1)] {
            assert_eq!(router.shard_of(key), ShardId(shard), "{key:?}");
        }
        assert_eq!(Router::of(7).shard_of(b"foobar"), ShardId((0x8594_4171_f739_67e8_u64 % 7) as u32));
        assert_eq!(Router::of(1).shard_of(b"x"), ShardId(0));
    }

    #[test]
    fn keys_spread_evenly_over_the_shards() {
        let router = Router::of(4);
        let mut counts = [0u32; 4];
        for i in 0..40_000 {
            counts[router.shard_of(format!("key-{i}").as_bytes()).0 as usize] += 1;
        }
        assert!(counts.iter().all(|c| (9_000..11_000).contains(c)), "{counts:?}");
    }
}
