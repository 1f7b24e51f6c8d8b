//! Unit tests of the KV manager: exact block ids and counts.

use sconce_kernels::kv::CacheKind;

use super::{Admission, BlockHash, KvConfig, KvGroupConfig, KvManager, extend_hashes};
use crate::types::SeqId;

const FULL: CacheKind = CacheKind::Full;
const WINDOW: CacheKind = CacheKind::SlidingWindow { window: 8 };

fn manager(num_superpages: usize, groups: &[(CacheKind, usize)]) -> KvManager {
    let groups = groups.iter().map(|&(kind, blocks_per_superpage)| KvGroupConfig { kind, blocks_per_superpage });
    KvManager::new(KvConfig { num_superpages, block_size: 4, groups: groups.collect(), prefix_cache: true })
}

fn hashes(text: u32, len: usize, salt: u64) -> Vec<BlockHash> {
    let mut hashes = Vec::new();
    extend_hashes(&mut hashes, &(0..len as u32).map(|i| text * 1000 + i).collect::<Vec<_>>(), 4, salt);
    hashes
}

fn ask(hashes: &[BlockHash], max_hit_tokens: usize, reserve_tokens: usize) -> Admission<'_> {
    Admission { hashes, max_hit_tokens, reserve_tokens, span: 4, headroom: 0 }
}

fn ids(kv: &KvManager, seq: u64, group: usize) -> Vec<i64> {
    let table = &kv.tables(SeqId(seq))[group];
    table.iter().map(|b| if b.is_null() { -1 } else { i64::from(b.0) }).collect()
}

/// Computes all of a sequence and leaves its blocks in the cache.
fn compute(kv: &mut KvManager, seq: u64, hashes: &[BlockHash], len: usize) {
    kv.admit(SeqId(seq), ask(hashes, 0, len)).expect("fits");
    for end in (4..=len).step_by(4) {
        kv.allocate(SeqId(seq), end).expect("promised");
        kv.advance(SeqId(seq), end, hashes);
        kv.check_integrity().expect("integrity");
    }
    kv.free(SeqId(seq));
    kv.check_integrity().expect("integrity");
}

#[test]
fn hashes_depend_on_every_earlier_token_and_the_salt() {
    let one = hashes(1, 12, 0);
    let mut changed = Vec::new();
    extend_hashes(&mut changed, &[1000, 1001, 1002, 9, 1004, 1005, 1006, 1007, 1008, 1009, 1010, 1011], 4, 0);
    assert!(one.iter().zip(&changed).all(|(a, b)| a != b));
    assert!(one.iter().zip(&hashes(1, 12, 1)).all(|(a, b)| a != b));
    let mut grown = one[..1].to_vec();
    extend_hashes(&mut grown, &(1000..1013).collect::<Vec<_>>(), 4, 0);
    assert_eq!(grown, one);
}

#[test]
fn a_superpage_serves_one_group_at_a_time_and_comes_back_when_empty() {
    let mut kv = manager(3, &[(FULL, 2), (FULL, 3)]);
    kv.admit(SeqId(1), ask(&[], 0, 8)).expect("fits");
    kv.allocate(SeqId(1), 8).expect("promised");
    assert_eq!((ids(&kv, 1, 0), ids(&kv, 1, 1)), (vec![0, 1], vec![3, 4]));
    // 3 blocks a group: the third superpage can't serve both.
    assert_eq!(kv.allocate(SeqId(1), 12), Some(()));
    assert_eq!((ids(&kv, 1, 0), ids(&kv, 1, 1)), (vec![0, 1, 4], vec![3, 4, 5]));
    assert_eq!(kv.allocate(SeqId(1), 16), None);
    assert_eq!((ids(&kv, 1, 0), ids(&kv, 1, 1)), (vec![0, 1, 4], vec![3, 4, 5]), "None changes nothing");
    kv.check_integrity().expect("integrity");
    kv.free(SeqId(1));
    kv.admit(SeqId(2), ask(&[], 0, 12)).expect("all superpages came back");
    kv.check_integrity().expect("integrity");
}

#[test]
fn promised_blocks_are_kept_from_others() {
    let mut kv = manager(4, &[(FULL, 1)]);
    kv.admit(SeqId(1), ask(&[], 0, 12)).expect("fits");
    assert_eq!(kv.admit(SeqId(2), ask(&[], 0, 8)), None);
    kv.admit(SeqId(2), ask(&[], 0, 4)).expect("fits");
    kv.allocate(SeqId(2), 4).expect("promised");
    assert_eq!(kv.allocate(SeqId(2), 8), None);
    kv.allocate(SeqId(1), 12).expect("promised");
    kv.check_integrity().expect("integrity");
}

#[test]
fn eviction_takes_the_least_recently_used_and_reaches_across_groups() {
    let mut kv = manager(2, &[(FULL, 2), (WINDOW, 2)]);
    let (old, new) = (hashes(1, 4, 0), hashes(2, 4, 0));
    compute(&mut kv, 1, &old, 4);
    compute(&mut kv, 2, &new, 4);
    assert_eq!(kv.usage().cached_blocks, 4);
    // A use makes `old` the younger one.
    assert_eq!(kv.admit(SeqId(3), ask(&old, 4, 4)), Some(4));
    kv.free(SeqId(3));
    // One more block in each group evicts `new`.
    kv.admit(SeqId(4), ask(&[], 0, 4)).expect("evictable");
    kv.allocate(SeqId(4), 4).expect("promised");
    kv.check_integrity().expect("integrity");
    kv.free(SeqId(4));
    assert_eq!(kv.admit(SeqId(5), ask(&new, 4, 4)), Some(0));
    kv.free(SeqId(5));
    assert_eq!(kv.admit(SeqId(6), ask(&old, 4, 4)), Some(4));
    kv.free(SeqId(6));

    // A pool of one group that is full of cached blocks gives its superpages to another group.
    let mut kv = manager(2, &[(FULL, 1), (CacheKind::SlidingWindow { window: 1 }, 1)]);
    compute(&mut kv, 1, &old, 4);
    kv.admit(SeqId(2), ask(&[], 0, 4)).expect("evictable");
    kv.allocate(SeqId(2), 4).expect("promised");
    assert_eq!(kv.usage().cached_blocks, 0);
    kv.check_integrity().expect("integrity");
}

#[test]
fn a_hit_is_what_every_group_accepts() {
    let mut kv = manager(40, &[(FULL, 1), (WINDOW, 1)]);
    let text = hashes(1, 40, 0);
    compute(&mut kv, 1, &text, 40);
    // The window (8) of a query at 40 sees positions 33.., so the hit needs blocks 8 and 9 only.
    assert_eq!(kv.admit(SeqId(2), ask(&text, 40, 44)), Some(40));
    assert_eq!(ids(&kv, 2, 1)[..8], [-1; 8]);
    assert!(ids(&kv, 2, 1)[8..].iter().all(|&b| b >= 0) && ids(&kv, 2, 0).iter().all(|&b| b >= 0));
    kv.free(SeqId(2));
    // Another text evicts nothing here; limits shorten the hit to whole blocks.
    assert_eq!(kv.admit(SeqId(3), ask(&text, 39, 44)), Some(36));
    kv.free(SeqId(3));
    // Without its last block in the window group, the longest hit is the one before it.
    let last = kv.pool.find(1, &text[9]).expect("cached");
    kv.pool.groups[1].index.remove(&text[9]);
    kv.pool.groups[1].blocks[last.0 as usize].hash = None;
    assert_eq!(kv.lookup(&text, 40), 9);
    // Without an early block in the full group, everything behind it is lost.
    let early = kv.pool.find(0, &text[3]).expect("cached");
    kv.pool.groups[0].index.remove(&text[3]);
    kv.pool.groups[0].blocks[early.0 as usize].hash = None;
    assert_eq!(kv.lookup(&text, 40), 3);
}

#[test]
fn capacity_counts_a_window_once() {
    assert_eq!(manager(10, &[(FULL, 2)]).config().capacity_tokens(16), 80);
    // The window group holds at most (8 - 1 + 16 tokens) 7 blocks: 7 superpages of 1; 3 remain for full attention.
    assert_eq!(manager(10, &[(FULL, 4), (WINDOW, 1)]).config().capacity_tokens(16), 48);
    assert_eq!(manager(7, &[(WINDOW, 1)]).config().capacity_tokens(16), usize::MAX);
    assert_eq!(manager(6, &[(WINDOW, 1)]).config().capacity_tokens(16), 24);
    assert_eq!(manager(1, &[(FULL, 4), (WINDOW, 1)]).config().capacity_tokens(16), 0);
}

#[test]
fn the_promise_covers_every_chunking() {
    for (window, span) in [(1, 1), (1, 4), (4, 1), (5, 3), (8, 4), (13, 9)] {
        let kind = CacheKind::SlidingWindow { window };
        let kv = manager(1, &[(kind, 1)]);
        let held = |computed: usize| (computed + span).div_ceil(4) - kv.config().first_visible_block(0, computed);
        let most = (0..100).map(held).max();
        assert_eq!(most, Some(kv.config().peak_blocks(0, 200, span)), "window {window}, span {span}");
        assert_eq!(kv.config().peak_blocks(0, 3, span), 1);
    }
}

/// Without sharing, a promise is kept whatever others do, though superpages of one group keep
/// blocks from the other and everything free is full of cached blocks.
#[test]
fn promises_are_kept() {
    let mut state = 1_u64;
    let mut random = move |low: usize, high: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + (state >> 33) as usize % (high - low + 1)
    };
    let (mut admitted, mut refused) = (0, 0);
    for _ in 0..200 {
        let mut kv = manager(random(6, 14), &[(FULL, random(1, 2)), (WINDOW, random(2, 4))]);
        let mut seqs: Vec<(u64, usize, usize)> = Vec::new(); // id, computed, length
        for id in 0..150 {
            if seqs.len() < 5 && random(0, 2) == 0 {
                let len = random(1, 40);
                let fits = kv.admit(SeqId(id), ask(&[], 0, len)).is_some();
                seqs.extend(fits.then_some((id, 0, len)));
                (admitted, refused) = (admitted + usize::from(fits), refused + usize::from(!fits));
            } else if !seqs.is_empty() {
                let at = random(0, seqs.len() - 1);
                let (seq, computed, len) = seqs[at];
                let end = (computed + random(1, 4)).min(len);
                kv.allocate(SeqId(seq), end).expect("promised");
                kv.advance(SeqId(seq), end, &hashes(seq as u32, len, 0));
                seqs[at].1 = end;
                if end == len {
                    kv.free(SeqId(seq));
                    seqs.remove(at);
                }
            }
            kv.check_integrity().expect("integrity");
        }
    }
    assert!(admitted > 1000 && refused > 1000, "{admitted} admitted, {refused} refused");
}
