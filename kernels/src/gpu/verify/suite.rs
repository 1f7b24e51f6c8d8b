//! What is checked on a card: every kernel at shapes that real models have, and at the edges of its tiles.

use half::{bf16, f16};

use super::super::attention::DeviceLimits;
use super::super::device::GpuDevice;
use super::super::gemm_tile::Tile;
use super::super::gemv::GemvOutput;
use super::super::work_list::SplitPolicy;
use super::attention::{World, shape};
use super::packed::TYPES;
use super::product::Case;
use super::qkv_post::{self, Layer};
use super::{Bed, Checked, Half, activation, draws, ensure, heads, logprobs, norm, packed};
use crate::activation::GateActivation;
use crate::attention::AttentionShape;
use crate::backend::NormParams;
use crate::kv::CacheKind;

/// One check.
pub struct Check<D> {
    /// What it is of.
    pub name: &'static str,
    /// Runs it.
    pub run: fn(&mut Bed<D>) -> Checked,
}

/// All checks, those of hot kernels first.
pub fn checks<D: GpuDevice>() -> Vec<Check<D>> {
    let check = |name, run| Check { name, run };
    vec![
        check("attention, every head size, bf16 and fp8 cache", head_sizes::<bf16, D>),
        check("attention, every head size, f16 and fp8 cache", head_sizes::<f16, D>),
        check("attention, prompts, decode and both together", steps),
        check("attention, windows and soft caps", windows),
        check("attention, the same bits in chunks and splits", same_bits),
        check("gemv, dense", dense),
        check("gemv, every packed type", packed_products),
        check("gemv that ends with rope and cache writes", heads_products),
        check("tiles, dense, with the gemv's bits", dense_tiles),
        check("tiles, every packed type, with the gemv's bits", packed_tiles),
        check("the library's products, bias and beta = 1", library),
        check("norms", norms),
        check("qkv_post, every head size and rope", qkv_posts),
        check("gated activations", activations),
        check("expansion of every packed type", expansions),
        check("sampling", sampling),
        check("log-probabilities", scores),
    ]
}

fn limits<D: GpuDevice>(bed: &mut Bed<D>) -> DeviceLimits {
    DeviceLimits::from(bed.device().info())
}

fn head_sizes<T: Half, D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    let way = (limits(bed), SplitPolicy::Adaptive);
    for head_dim in [64, 80, 96, 128, 256, 512] {
        for fp8 in [false, true] {
            // A small tile of one row, and one large tile with a small one behind it.
            let world = World::<T>::new(shape((4, 2), head_dim), fp8, &[1, 70], head_dim as u64);
            world.families(bed).iter().try_for_each(|world| world.matches(bed, way))?;
        }
    }
    Ok(())
}

fn steps<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    let limits = limits(bed);
    let lengths = [1, 31, 32, 33, 64, 65, 257];
    for heads in [(4, 1), (7, 1), (3, 3)] {
        let world = World::<bf16>::new(shape(heads, 128), false, &lengths, 3);
        // All but the last rows; then all of these beside the rest of one prompt.
        let prompts: Vec<_> =
            lengths.iter().enumerate().map(|(i, len)| (i, if i == 6 { 120 } else { len - 1 })).collect();
        let mixed: Vec<_> = (0..lengths.len()).map(|i| (i, if i == 6 { 137 } else { 1 })).collect();
        let steps = [prompts, mixed];
        for world in world.families(bed) {
            for policy in [SplitPolicy::Adaptive, SplitPolicy::Fixed { tokens: 64 }] {
                let outputs = world.run(bed, (limits, policy), &steps)?;
                outputs.iter().enumerate().try_for_each(|(i, out)| world.close(i, 0, out))?;
            }
        }
    }
    Ok(())
}

fn windows<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    let limits = limits(bed);
    for (window, softcap) in [(1, None), (33, Some(3.0)), (64, None), (100, Some(20.0)), (1000, None)] {
        let shape = AttentionShape { softcap, kind: CacheKind::SlidingWindow { window }, ..shape((4, 1), 64) };
        let world = World::<f16>::new(shape, window == 33, &[200, 7], window as u64);
        let steps = [vec![(0, 150), (1, 6)], vec![(0, 49)], vec![(1, 1), (0, 1)]];
        for world in world.families(bed) {
            let outputs = world.run(bed, (limits, SplitPolicy::Fixed { tokens: 64 }), &steps)?;
            world.close(0, 0, &outputs[0])?;
        }
    }
    let capped = AttentionShape { softcap: Some(5.0), ..shape((2, 1), 128) };
    let worlds = World::<bf16>::new(capped, false, &[70], 4).families(bed);
    worlds.iter().try_for_each(|world| world.matches(bed, (limits, SplitPolicy::Adaptive)))
}

fn same_bits<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    let way = (limits(bed), SplitPolicy::Fixed { tokens: 64 });
    for head_dim in [64, 128, 256] {
        let world = World::<bf16>::new(shape((4, 1), head_dim), false, &[230, 40], 7);
        for world in world.families(bed) {
            let whole = world.whole(bed, way)?;
            let steps = [vec![(0, 5), (1, 39)], vec![(0, 64), (1, 1)], vec![(0, 160)], vec![(0, 1)]];
            let chunks = world.run(bed, way, &steps)?;
            ensure(chunks == whole, || format!("{}: other bits in chunks than as a whole", world.describe(0)))?;
        }
    }
    Ok(())
}

const GATED: GemvOutput = GemvOutput::Gated(GateActivation::Silu);

fn dense<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for (i, shape) in [(1, 1, 8), (3, 17, 40), (8, 16, 1032), (5, 40, 2096), (19, 24, 264)].into_iter().enumerate() {
        for output in [GemvOutput::Half, GemvOutput::F32, GemvOutput::Added, GATED] {
            Case::<bf16>::of(None, shape, i % 2 == 0, false, output)?.check(bed)?;
            Case::<f16>::of(None, shape, i % 2 == 1, true, output)?.check(bed)?;
        }
    }
    Ok(())
}

fn packed_products<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for ty in TYPES {
        let [slice, long] = if ty.block_len() == 32 { [96, 2144] } else { [256, 2304] };
        Case::<bf16>::of(Some(ty), (3, 17, slice), true, false, GemvOutput::F32)?.check(bed)?;
        Case::<bf16>::of(Some(ty), (9, 32, long), true, true, GATED)?.check(bed)?;
        Case::<f16>::of(Some(ty), (8, 16, long), false, false, GemvOutput::Added)?.check(bed)?;
    }
    Ok(())
}

fn heads_products<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    heads::KINDS.into_iter().enumerate().try_for_each(|(i, kind)| {
        heads::check::<bf16, D>(bed, None, &heads::layer(kind, i % 2 == 1), 264, i % 3 == 0)?;
        if heads::packed_takes(kind) {
            heads::check::<bf16, D>(bed, Some(TYPES[i]), &heads::layer(kind, i % 2 == 0), 256, i % 3 == 1)?;
        }
        Ok(())
    })
}

fn dense_tiles<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for tile in [Tile::Small, Tile::Large] {
        for (shape, output) in
            [((7, 17, 40), GemvOutput::F32), ((65, 130, 2056), GemvOutput::Half), ((1030, 24, 136), GemvOutput::Added)]
        {
            Case::<bf16>::of(None, shape, true, false, output)?.check_tiles(bed, tile)?;
            Case::<f16>::of(None, shape, false, false, output)?.check_tiles(bed, tile)?;
        }
    }
    Ok(())
}

fn packed_tiles<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for ty in TYPES {
        let long = if ty.block_len() == 32 { 2144 } else { 2304 };
        for tile in [Tile::Small, Tile::Large] {
            Case::<bf16>::of(Some(ty), (33, 72, long), true, false, GemvOutput::F32)?.check_tiles(bed, tile)?;
            Case::<f16>::of(Some(ty), (65, 16, 256), false, false, GemvOutput::Added)?.check_tiles(bed, tile)?;
        }
    }
    Ok(())
}

fn library<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for shape in [(1, 16, 64), (17, 48, 264), (130, 64, 128)] {
        for (bias, output) in [(true, GemvOutput::Half), (false, GemvOutput::Added), (true, GemvOutput::F32)] {
            Case::<bf16>::of(None, shape, bias, false, output)?.check_library(bed)?;
            Case::<f16>::of(None, shape, bias, false, output)?.check_library(bed)?;
        }
    }
    Ok(())
}

fn norms<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for width in [8, 576, 4096, 8 * (4 * 256 + 33)] {
        norm::check::<bf16, D>(bed, 3, width, true)?;
        norm::check::<f16, D>(bed, 1, width, false)?;
    }
    Ok(())
}

fn qkv_posts<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for (dim, rot_dim, interleaved) in
        [(64, 64, false), (64, 16, true), (80, 20, false), (96, 96, true), (128, 128, false), (256, 256, false)]
    {
        for fp8 in [false, true] {
            let norm = fp8.then_some(NormParams { eps: 1e-6, one_plus: dim == 256 });
            let rope = Some(qkv_post::rope(rot_dim, interleaved));
            let layer = Layer { shape: qkv_post::shape(3, 2, dim), norm, rope, fp8 };
            qkv_post::check::<bf16, D>(bed, &layer, dim as u64)?;
            qkv_post::check::<f16, D>(bed, &layer, rot_dim as u64)?;
        }
    }
    Ok(())
}

fn activations<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for gate in [GateActivation::Silu, GateActivation::GeluTanh, GateActivation::Gelu] {
        activation::check::<bf16, D>(bed, gate, 3, 2056)?;
        activation::check::<f16, D>(bed, gate, 2, 264)?;
    }
    Ok(())
}

fn expansions<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    for ty in TYPES {
        let cols = if ty.block_len() == 32 { 2336 } else { 2304 };
        packed::check::<bf16, D>(bed, ty, 19, cols)?;
        packed::check::<f16, D>(bed, ty, 5, cols)?;
    }
    Ok(())
}

fn sampling<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    let (mut rows, mut differing) = (0, 0);
    for (vocab, batch, steps) in [(1, 20, 1), (31, 60, 4), (1000, 60, 6), (8193, 8, 3), (30_000, 12, 3)] {
        let found = draws::check(bed, vocab, batch, steps)?;
        (rows, differing) = (rows + found.0, differing + found.1);
    }
    ensure(differing * 50 <= rows, || {
        format!("{differing} of {rows} rows differ from the CPU's, all of them near ties")
    })
}

fn scores<D: GpuDevice>(bed: &mut Bed<D>) -> Checked {
    [(1, 3), (33, 20), (8193, 6), (40_001, 6)]
        .into_iter()
        .try_for_each(|(vocab, rows)| logprobs::check(bed, vocab, rows))
}
