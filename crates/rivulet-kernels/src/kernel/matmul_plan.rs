//! Which tile a matrix product is cut into, and into how many parts along k.
//!
//! A model of times. A workgroup takes a step along k in a time that depends on whether it has a processor to itself
//! (`alone`, what memory and arithmetic take one after the other) or shares it (`shared`, what the processor's units take
//! for its share). So a product takes
//!
//! > launch + max(alone · k, rounds · shared · k) + rounds · each
//!
//! where the rounds are workgroups over processors, rounded up. A product in parts takes the same with the k of a part, and
//! then what it takes to put them together: another launch, and the parts written and read. The figures are of an H100
//! (`benchmarks/results/2026-11-28-products-h100.txt`); on other devices their ratios matter, which follow from the tiles'
//! shapes.

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
    /// Whether cooperative matrices multiply them.
    pub cooperative: bool,
    /// Whether the product may be cut into parts along k.
    pub parts: bool,
}

/// What workgroups with a tile take, in nanoseconds.
struct Cost {
    tile: Tile,
    /// Rows and columns of the tile.
    sides: [u32; 2],
    /// A step along k of a workgroup that has a processor to itself.
    alone: f32,
    /// A processor's time for a step of a workgroup that is one of several.
    shared: f32,
    /// A workgroup's first and last steps, beyond those of the others.
    each: f32,
}

const LAUNCH: f32 = 3500.0;
/// A launch that waits for the one before.
const JOIN: f32 = 4500.0;
/// To write and read a sum once.
const SUM: f32 = 4.0 * 2.0 / 2500.0;
/// Terms of a part at least.
const LEAST: u32 = 64;

/// Factors read one by one: the figures are those of factors read four at a time, of which only the ratios count.
const PLAIN: [Cost; 3] = [
    Cost { tile: Tile::Large, sides: [128; 2], alone: 90.7, shared: 96.7, each: 700.0 },
    Cost { tile: Tile::Medium, sides: [64; 2], alone: 30.4, shared: 25.5, each: 300.0 },
    Cost { tile: Tile::Small, sides: [32; 2], alone: 18.6, shared: 9.0, each: 100.0 },
];
const QUADS: [Cost; 4] = [
    Cost { tile: Tile::Blocks(Blocks::LARGE), sides: [128; 2], alone: 90.7, shared: 96.7, each: 700.0 },
    Cost { tile: Tile::Blocks(Blocks::MEDIUM), sides: [64; 2], alone: 30.4, shared: 25.5, each: 300.0 },
    Cost { tile: Tile::Blocks(Blocks::SMALL), sides: [32; 2], alone: 18.6, shared: 9.0, each: 100.0 },
    Cost { tile: Tile::Blocks(Blocks::SLICED), sides: [16; 2], alone: 3.8, shared: 4.2, each: 100.0 },
];
const COOPERATIVE: [Cost; 2] = [
    Cost { tile: Tile::Cooperative, sides: [128; 2], alone: 14.3, shared: 12.3, each: 2350.0 },
    Cost { tile: Tile::SmallCooperative, sides: [64; 2], alone: 7.3, shared: 5.4, each: 200.0 },
];

impl Cost {
    fn time(&self, extent: &Extent, parts: u32) -> f32 {
        let (m, n) = (extent.m.div_ceil(self.sides[0]), extent.n.div_ceil(self.sides[1]));
        let groups = f32_of(m) * f32_of(n) * f32_of(extent.batches) * f32_of(parts);
        let rounds = (groups / f32_of(extent.processors.max(1))).ceil();
        let k = f32_of(extent.k.div_ceil(parts));
        let product = LAUNCH + (self.alone * k).max(rounds * self.shared * k) + rounds * self.each;
        if parts == 1 {
            return product;
        }
        product + JOIN + SUM * f32_of(parts) * f32_of(extent.m) * f32_of(extent.n) * f32_of(extent.batches)
    }
}

/// Counts beyond 2^24 may round: they are compared, not counted.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn f32_of(count: u32) -> f32 {
    count as f32
}

impl Tile {
    /// The tile that a product takes the least time with, and how many parts `k` is cut into.
    pub fn plan(extent: &Extent) -> (Self, u32) {
        match extent.m {
            1 => return (Self::Skinny1, 1),
            2..=4 => return (Self::Skinny4, 1),
            5..=8 => return (Self::Skinny8, 1),
            9..=16 if !extent.quads => return (Self::Skinny8, 1),
            _ => {}
        }
        let tiles = if extent.quads { QUADS.as_slice() } else { PLAIN.as_slice() };
        let cooperative = COOPERATIVE.iter().filter(|_| extent.cooperative);
        let mut best = (f32::INFINITY, Self::Small, 1);
        for cost in cooperative.chain(tiles) {
            for parts in [1, 2, 4, 8, 16] {
                let allowed = extent.parts && extent.k / parts >= LEAST;
                if parts > 1 && !allowed {
                    break;
                }
                let time = cost.time(extent, parts);
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
        Tile::plan(&Extent { m, n, k, batches, processors, quads: true, cooperative: false, parts: true })
    }

    #[test]
    fn large_products_take_the_tile_that_is_fastest_by_the_element() {
        assert_eq!(plan(4096, 4096, 4096), (Tile::Blocks(Blocks::LARGE), 1));
        assert_eq!(plan(8192, 512, 8192), (Tile::Blocks(Blocks::LARGE), 1));
    }

    #[test]
    fn products_of_few_tiles_take_smaller_ones() {
        assert_eq!(plan(4096, 384, 384), (Tile::Blocks(Blocks::MEDIUM), 1));
        assert_eq!(plan(32, 512, 1024), (Tile::Blocks(Blocks::SLICED), 1));
        assert_eq!(plan(1, 1024, 1024), (Tile::Skinny1, 1));
    }

    #[test]
    fn few_tiles_with_many_terms_are_cut_along_k() {
        let (tile, parts) = plan(512, 2048, 256);
        assert!(parts > 1, "{tile:?} in {parts} parts");
        let whole = Tile::plan(&Extent {
            m: 512,
            n: 256,
            k: 2048,
            batches: 1,
            processors: 132,
            quads: true,
            cooperative: false,
            parts: false,
        });
        assert_eq!(whole.1, 1);
    }
}
