//! The planner of attention's work lists alone: coverage, capacity, balance. Nothing is launched.

use std::collections::HashMap;

use sconce_kernels::gpu::verify::Random;
use sconce_kernels::gpu::work_list::{
    HEADER_WORDS, ITEM_WORDS, NARROW_ROWS, SplitPolicy, WorkItem, WorkPlanner, WorkShape, WorkSpan,
};
use sconce_kernels::kv::CacheKind;

fn shape(group: usize, kind: CacheKind, splits: SplitPolicy) -> WorkShape {
    WorkShape { group, num_kv_heads: 8, kv_tile: 64, wide_rows: 128, kind, num_blocks: 264, num_units: 528, splits }
}

fn policies() -> [SplitPolicy; 3] {
    [SplitPolicy::Adaptive, SplitPolicy::Fixed { tokens: 64 }, SplitPolicy::Fixed { tokens: 2048 }]
}

/// Spans one behind the other, with gaps of padding rows.
fn spans(parts: &[(u32, u32)]) -> Vec<WorkSpan> {
    let mut first_row = 0;
    let mut span = |(slot, &(num_rows, start)): (usize, &(u32, u32))| {
        let span = WorkSpan { slot: slot as u32, first_row, num_rows, start };
        first_row += num_rows + 1;
        span
    };
    parts.iter().enumerate().map(&mut span).collect()
}

/// Every (row, head of the group) is in one query tile, whose items cut exactly its keys at multiples of the split
/// size, in places of the partial results that nobody else has.
fn check(shape: &WorkShape, spans: &[WorkSpan], items: &[WorkItem]) {
    let by_slot: HashMap<u32, &WorkSpan> = spans.iter().map(|span| (span.slot, span)).collect();
    let mut tiles: HashMap<(u32, u32), Vec<&WorkItem>> = HashMap::new();
    for item in items {
        let span = by_slot[&item.slot];
        assert_eq!((item.first_row, item.start), (span.first_row, span.start));
        tiles.entry((item.slot, item.first_query)).or_default().push(item);
    }
    let mut covered: HashMap<u32, u32> = HashMap::new();
    let mut units = vec![false; shape.num_units];
    for ((slot, first_query), mut parts) in tiles {
        parts.sort_by_key(|item| item.split & 0xffff);
        let (num_queries, num_splits) = (parts[0].num_queries, parts[0].split >> 16);
        assert!(num_queries > 0 && num_queries as usize <= shape.wide_rows);
        *covered.entry(slot).or_default() += num_queries;
        let position = |query: u32| (by_slot[&slot].start + query / shape.group as u32) as usize;
        let first = shape.kind.first_visible(position(first_query)) / shape.kv_tile;
        let last = position(first_query + num_queries - 1) / shape.kv_tile;
        assert_eq!(parts.len() as u32, num_splits);
        let mut begin = first as u32;
        for (i, part) in parts.iter().enumerate() {
            assert_eq!((part.num_queries, part.first_partial), (num_queries, parts[0].first_partial));
            assert_eq!((part.split & 0xffff, part.tiles & 0xffff), (i as u32, begin));
            begin = part.tiles >> 16;
            if let (SplitPolicy::Fixed { tokens }, true) = (shape.splits, i + 1 < parts.len()) {
                assert!((begin as usize * shape.kv_tile).is_multiple_of(tokens));
                assert!(part.num_tiles() * shape.kv_tile <= tokens);
            }
        }
        assert_eq!(begin as usize, last + 1);
        if num_splits > 1 {
            let size = if num_queries as usize > NARROW_ROWS { shape.wide_rows / NARROW_ROWS } else { 1 };
            for unit in parts[0].first_partial as usize..parts[0].first_partial as usize + num_splits as usize * size {
                assert!(!std::mem::replace(&mut units[unit], true), "unit {unit} twice");
            }
        }
    }
    for span in spans {
        let queries = span.num_rows * shape.group as u32;
        assert_eq!(covered.get(&span.slot).copied().unwrap_or(0), queries, "queries of slot {}", span.slot);
    }
}

/// Tiles of the busiest block, and of the average one.
fn load(shape: &WorkShape, items: &[WorkItem]) -> (usize, f64) {
    let blocks = shape.num_blocks;
    let mut loads = vec![0; blocks];
    for unit in 0..items.len() * shape.num_kv_heads {
        let (round, place) = (unit / blocks, unit % blocks);
        let block = if round % 2 == 0 { place } else { blocks - 1 - place };
        loads[block] += items[unit / shape.num_kv_heads].num_tiles();
    }
    (loads.iter().copied().max().unwrap_or(0), loads.iter().sum::<usize>() as f64 / blocks as f64)
}

#[test]
fn random_steps_are_covered_once() {
    let mut random = Random(1);
    for round in 0..300 {
        let kind = match round % 3 {
            0 => CacheKind::SlidingWindow { window: 1 + random.below(5000) },
            _ => CacheKind::Full,
        };
        let group = [1, 2, 4, 7, 8, 16, 24][random.below(7)];
        let mut shape = shape(group, kind, policies()[random.below(3)]);
        shape.wide_rows = [16, 32, 64, 128][random.below(4)];
        shape.num_units = random.below(600);
        let parts: Vec<(u32, u32)> = (0..random.below(12))
            .map(|_| ([0, 1, 1, 1, 17, 300][random.below(6)], random.below(30_000) as u32))
            .collect();
        let spans = spans(&parts);
        let mut planner = WorkPlanner::new(shape);
        let words = planner.plan(&spans).to_vec();
        check(&shape, &spans, planner.items());
        assert_eq!(words[0] as usize, planner.items().len());
        assert_eq!(words.len(), HEADER_WORDS + ITEM_WORDS * planner.items().len());
        let rows = parts.iter().map(|part| part.0 as usize).sum();
        assert!(words.len() <= shape.max_words(parts.len(), rows));
        // Largest first, to an eighth.
        let ordered = |pair: &[WorkItem]| 8 * pair[1].num_tiles() <= 9 * pair[0].num_tiles();
        assert!(planner.items().windows(2).all(ordered));
    }
}

#[test]
fn a_thousand_sequences_of_131072_tokens_fit_what_is_reserved() {
    for splits in policies() {
        for group in [1, 4, 24] {
            let shape = shape(group, CacheKind::Full, splits);
            let spans = spans(&vec![(1, 131_071); 1024]);
            let mut planner = WorkPlanner::new(shape);
            let words = planner.plan(&spans).len();
            check(&shape, &spans, planner.items());
            assert!(words <= shape.max_words(1024, 1024), "{words} words");
            // A list of no use if it took longer to upload than the step: a few hundred kilobytes.
            assert!(4 * shape.max_words(1024, 8192) < 400 << 10 || group == 24);
        }
    }
}

#[test]
fn adaptive_plans_keep_the_blocks_busy() {
    let steps: [&[(u32, u32)]; 8] = [
        &[(1, 8191)],
        &[(1, 131_071)],
        &[(1, 1023), (1, 1023), (1, 1023), (1, 1023)],
        &[(1, 1023); 64],
        &[(1, 1023); 256],
        &[(8192, 0)],
        &[(2048, 131_072 - 2048)],
        &[(1, 60_000), (1, 100), (1, 3000), (512, 1500), (1, 9000), (1, 9000)],
    ];
    for parts in steps {
        let shape = shape(4, CacheKind::Full, SplitPolicy::Adaptive);
        let spans = spans(parts);
        let mut planner = WorkPlanner::new(shape);
        planner.plan(&spans);
        check(&shape, &spans, planner.items());
        let (busiest, average) = load(&shape, planner.items());
        let smallest = 256.0 / 64.0;
        assert!(busiest as f64 <= (1.2 * average).max(smallest), "{parts:?}: {busiest} tiles, {average} on average");
    }
}

#[test]
fn a_window_bounds_the_work() {
    let shape = shape(4, CacheKind::SlidingWindow { window: 1024 }, SplitPolicy::Adaptive);
    let mut planner = WorkPlanner::new(shape);
    planner.plan(&spans(&[(1, 131_071), (1, 100_000)]));
    let tiles: usize = planner.items().iter().map(WorkItem::num_tiles).sum();
    assert!(tiles <= 2 * (1024 / 64 + 1), "{tiles} tiles");
}

#[test]
fn an_empty_step_is_an_empty_list() {
    let mut planner = WorkPlanner::new(shape(4, CacheKind::Full, SplitPolicy::Fixed { tokens: 128 }));
    assert_eq!(planner.plan(&[]), [0, 2, 0, 0, 0, 0, 0, 0]);
}

#[test]
#[should_panic(expected = "no multiple of 64")]
fn a_split_between_tiles_is_refused() {
    let _ = WorkPlanner::new(shape(4, CacheKind::Full, SplitPolicy::Fixed { tokens: 100 }));
}
