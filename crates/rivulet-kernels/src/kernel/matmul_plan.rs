//! Which tile a matrix product is cut into, and into how many parts along k.
//!
//! A model of times. A workgroup takes a step along k in a time that depends on whether it has a processor to itself
//! (`alone`, what memory and arithmetic take one after the other) or shares it (`shared`, what the processor's units take
//! for its share). So a product takes
//!
//! > launch + max(alone · k, rounds · shared · k) + rounds · each
//!
//! where the rounds are workgroups over processors, rounded up. A product in parts takes the same with the k of a part, and
//! then what it takes to put them together: another launch, and the parts written and read. Terms count in whole steps of a
//! tile. The figures are of an H200 (132 processors at 1980 MHz), `benchmarks/results/2026-11-28-small-products-h200.txt`,
//! those of cooperative matrices of an H100 (`2026-11-28-products-h100.txt`); on other devices their ratios matter, which
//! follow from the tiles' shapes. Measure anew with the example `product_tiles`.

use super::matmul::Tile;
use super::matmul_vectors::Blocks;

/// What is to be multiplied, and what the kernels may rely on.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Rows of each product.
    pub m: u32,
    /// Columns of each product.
    pub n: u32,
    /// Terms of each sum.
    pub k: u32,
    /// Products.
    pub batches: u32,
    /// Processors that workgroups are shared out to.
    pub processors: u32,
    /// Whether factors are read four at a time.
    pub quads: bool,
    /// Whether both run along k.
    pub along_k: bool,
    /// Whether cooperative matrices multiply them.
    pub cooperative: bool,
    /// Whether the product may be cut into parts along k.
    pub parts: bool,
}

/// What workgroups with a tile take, in nanoseconds.
struct Cost {
    tile: Tile,
    /// Rows and columns of the tile, and its steps along k.
    sides: [u32; 3],
    /// A step along k of a workgroup that has a processor to itself.
    alone: f32,
    /// A processor's time for a step of a workgroup that is one of several.
    shared: f32,
    /// A workgroup's first and last steps, beyond those of the others.
    each: f32,
}

const LAUNCH: f32 = 2600.0;
/// A launch that waits for the one before, and the memory between them.
const JOIN: f32 = 3000.0;
/// To write and read a sum once.
const SUM: f32 = 4.0 * 2.0 / 2500.0;
/// Terms of a part at least.
const LEAST: u32 = 64;

/// Factors read one by one.
const PLAIN: [Cost; 3] = [
    Cost::new(Tile::Large, [128, 128, 16], [90.7, 96.7, 700.0]),
    Cost::new(Tile::Medium, [64, 64, 16], [30.4, 25.5, 300.0]),
    Cost::new(Tile::Small, [32, 32, 16], [18.6, 9.0, 100.0]),
];
const QUADS: [Cost; 11] = [
    Cost::of_blocks(Blocks::LARGE, [94.4, 94.4, 1550.0]),
    Cost::of_blocks(Blocks::MEDIUM, [31.0, 26.3, 490.0]),
    Cost::of_blocks(Blocks::SMALL, [12.1, 7.43, 540.0]),
    Cost::of_blocks(Blocks::SMALL_SLICED, [9.2, 7.55, 610.0]),
    Cost::of_blocks(Blocks::SMALL_DEEP, [8.37, 8.37, 1770.0]),
    Cost::of_blocks(Blocks::SLICED, [4.36, 3.49, 150.0]),
    Cost::of_blocks(Blocks::SLICED_DEEP, [3.73, 3.73, 340.0]),
    Cost::of_blocks(Blocks::NARROW, [3.2, 2.57, 280.0]),
    Cost::of_blocks(Blocks::NARROW_DEEP, [2.68, 2.38, 350.0]),
    Cost::of_blocks(Blocks::FLAT, [3.25, 2.6, 285.0]),
    Cost::of_blocks(Blocks::FLAT_DEEP, [2.2, 2.0, 340.0]),
];
const COOPERATIVE: [Cost; 2] = [
    Cost::new(Tile::Cooperative, [128, 128, 64], [14.3, 12.3, 2350.0]),
    Cost::new(Tile::SmallCooperative, [64, 64, 64], [7.3, 5.4, 200.0]),
];

impl Cost {
    /// `times`: alone, shared, each.
    const fn new(tile: Tile, sides: [u32; 3], times: [f32; 3]) -> Self {
        let [alone, shared, each] = times;
        Self { tile, sides, alone, shared, each }
    }

    const fn of_blocks(blocks: Blocks, times: [f32; 3]) -> Self {
        Self::new(Tile::Blocks(blocks), [blocks.rows, blocks.columns, blocks.depth], times)
    }

    /// Workgroups of a product in one part.
    fn groups(&self, extent: &Extent) -> u32 {
        let [rows, columns, _] = self.sides;
        whole(extent.m, rows).saturating_mul(whole(extent.n, columns)).saturating_mul(extent.batches)
    }

    /// `groups`: of one part.
    fn time(&self, extent: &Extent, groups: u32, parts: u32) -> f32 {
        let depth = self.sides[2];
        let rounds = f32_of(groups.saturating_mul(parts).div_ceil(extent.processors.max(1)));
        let k = f32_of(whole(extent.k.div_ceil(parts), depth)) * f32_of(depth);
        let product = LAUNCH + (self.alone * k).max(rounds * self.shared * k) + rounds * self.each;
        if parts == 1 {
            return product;
        }
        product + JOIN + SUM * f32_of(parts) * f32_of(extent.m) * f32_of(extent.n) * f32_of(extent.batches)
    }
}

/// How many of `size`, a power of two, hold `count`; without a division, since every product asks.
const fn whole(count: u32, size: u32) -> u32 {
    (count.saturating_add(size - 1)) >> size.trailing_zeros()
}

/// Counts beyond 2^24 may round: they are compared, not counted.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn f32_of(count: u32) -> f32 {
    count as f32
}

impl Tile {
    /// The tile that a product takes the least time with, and how many parts `k` is cut into.
    pub fn plan(extent: &Extent) -> (Self, u32) {
        // One invocation after another reads a factor across k, which tiles of few rows read worse than skinny ones.
        let skinny = !(extent.quads && extent.along_k);
        match extent.m {
            1 => return (Self::Skinny1, 1),
            2 if !skinny => return (Self::Skinny1, 1),
            2..=4 if skinny => return (Self::Skinny4, 1),
            5..=8 if skinny => return (Self::Skinny8, 1),
            9..=16 if !extent.quads => return (Self::Skinny8, 1),
            _ => {}
        }
        let tiles = if extent.quads { QUADS.as_slice() } else { PLAIN.as_slice() };
        let cooperative = COOPERATIVE.iter().filter(|_| extent.cooperative);
        let mut best = (f32::INFINITY, Self::Small, 1);
        for cost in cooperative.chain(tiles) {
            let groups = cost.groups(extent);
            for parts in [1, 2, 4, 8, 16] {
                // Where every processor has a workgroup, parts only cost memory.
                let busy = groups.saturating_mul(parts / 2) >= extent.processors;
                if parts > 1 && (busy || !extent.parts || extent.k / parts < LEAST) {
                    break;
                }
                let time = cost.time(extent, groups, parts);
                if time < best.0 {
                    best = (time, cost.tile, parts);
                }
            }
        }
        (best.1, best.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(m: u32, k: u32, n: u32) -> (Tile, u32) {
        let (batches, processors) = (1, 132);
        Tile::plan(&Extent {
            m,
            n,
            k,
            batches,
            processors,
            quads: true,
            along_k: true,
            cooperative: false,
            parts: true,
        })
    }

    #[test]
    fn large_products_take_the_tile_that_is_fastest_by_the_element() {
        assert_eq!(plan(4096, 4096, 4096), (Tile::Blocks(Blocks::LARGE), 1));
        assert_eq!(plan(8192, 512, 8192), (Tile::Blocks(Blocks::LARGE), 1));
    }

    #[test]
    fn products_of_few_tiles_take_smaller_ones() {
        let blocks = |m, k, n| match plan(m, k, n) {
            (Tile::Blocks(blocks), 1) => blocks,
            other => panic!("{other:?}"),
        };
        assert_eq!(blocks(4096, 384, 384), Blocks::MEDIUM);
        assert_eq!(blocks(1024, 1024, 1024), Blocks::MEDIUM);
        assert_eq!(blocks(512, 256, 2048), Blocks::MEDIUM);
        assert_eq!(blocks(512, 256, 256), Blocks::SMALL_SLICED);
        assert_eq!(blocks(128, 1024, 1024), Blocks::SMALL_SLICED);
        assert_eq!(blocks(32, 384, 1536), Blocks::SLICED);
        assert_eq!(blocks(32, 1024, 1024), Blocks::SLICED_DEEP);
        assert_eq!(blocks(32, 384, 384), Blocks::NARROW);
        assert_eq!(blocks(32, 1536, 384), Blocks::NARROW_DEEP);
        assert_eq!(blocks(8, 384, 1536), Blocks::FLAT);
        assert_eq!(blocks(4, 1024, 1024), Blocks::FLAT_DEEP);
        assert_eq!(blocks(512, 2048, 256), Blocks::SMALL_DEEP);
        assert_eq!(plan(1, 1024, 1024), (Tile::Skinny1, 1));
        assert_eq!(plan(2, 1024, 1024), (Tile::Skinny1, 1));
    }

    #[test]
    fn few_tiles_with_many_terms_are_cut_along_k() {
        let (tile, parts) = plan(64, 8192, 64);
        assert!(parts > 1, "{tile:?} in {parts} parts");
        let whole = Tile::plan(&Extent {
            m: 64,
            n: 64,
            k: 8192,
            batches: 1,
            processors: 132,
            quads: true,
            along_k: true,
            cooperative: false,
            parts: false,
        });
        assert_eq!(whole.1, 1);
    }
}
