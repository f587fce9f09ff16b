//! The key of a kernel: which family, and which variant of it.

mod attention;
mod attention_simd;
mod channel_norm;
mod conv;
mod fused;
mod held_row;
mod index;
mod int_matmul;
mod join_rows;
mod loss;
mod matmul;
mod matmul_cooperative;
mod matmul_join;
mod matmul_plan;
mod matmul_simd;
mod matmul_vectors;
mod norm_columns;
mod ops;
mod pad;
mod pointwise;
mod pool;
mod reduce;
mod resample;
mod row;
mod scan;
mod search;
mod sort;
mod unfold;

pub use attention::{Attention, AttentionTile, HeadSize, Mask};
pub use attention_simd::AttentionSimd;
pub use channel_norm::ChannelNorm;
pub use conv::{Conv, ConvKind};
pub use fused::{FUSED_STEPS, Fused, FusedInput, FusedSource, FusedStep};
pub use held_row::{HeldRow, RowSum};
pub use index::{Gather, Scatter, ScatterOp};
pub use int_matmul::IntMatmul;
pub use join_rows::JoinRows;
pub use loss::{EmbeddingGradient, LossReduction, Nll, NllPass};
pub use matmul::{Matmul, Tile};
pub use matmul_join::{MatmulJoin, ProductStore};
pub use matmul_plan::Extent;
pub use matmul_simd::MatmulSimd;
pub use matmul_vectors::Blocks;
pub use norm_columns::NormColumns;
pub use ops::Op;
pub use pad::{Pad, PadMode};
use pointwise::GROUP as POINTWISE_GROUP;
pub use pointwise::{Layout, Pointwise};
pub use pool::{Pool, PoolOp};
pub use reduce::{Reduce, ReduceOp, ReduceOutput, ReduceStage, ReduceThreads};
pub use resample::{Resample, ResampleMode};
pub use row::{Norm, NormBackward, Row, RowOp, RowStore, RowThreads};
pub use scan::{Scan, ScanOp};
pub use search::Search;
pub use sort::{Sort, SortStep};
pub use unfold::Unfold;

use crate::dtype::DType;
use crate::features::Features;

/// Groups in one dimension of a dispatch that every device takes.
pub const MAX_GROUPS: u32 = 65_535;

/// Everything that tells one compiled kernel from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kernel {
    /// Element by element.
    Pointwise(Pointwise),
    /// Row by row.
    Row(Row),
    /// Row by row, in registers.
    HeldRow(HeldRow),
    /// Matrix product.
    Matmul(Matmul),
    /// Parts of a matrix product put together.
    MatmulJoin(MatmulJoin),
    /// Matrix product on Metal's simdgroup matrices.
    MatmulSimd(MatmulSimd),
    /// Many elements to one.
    Reduce(Reduce),
    /// Elements at places that an index tensor holds.
    Gather(Gather),
    /// To places that an index tensor holds.
    Scatter(Scatter),
    /// Running totals along a dimension.
    Scan(Scan),
    /// Scaled dot-product attention.
    Attention(Attention),
    /// Scaled dot-product attention on Metal's simdgroup matrices.
    AttentionSimd(AttentionSimd),
    /// Gradients of a normalisation's weight and bias.
    NormColumns(NormColumns),
    /// Channels normalised by given statistics.
    ChannelNorm(ChannelNorm),
    /// A step of a sort.
    Sort(Sort),
    /// Convolution.
    Conv(Conv),
    /// Padding by reflection or replication.
    Pad(Pad),
    /// Negative log likelihood.
    Nll(Nll),
    /// Gradient of an embedding's table.
    EmbeddingGradient(EmbeddingGradient),
    /// Pooling.
    Pool(Pool),
    /// Change of resolution.
    Resample(Resample),
    /// Columns of an image, and back.
    Unfold(Unfold),
    /// Places in sorted rows.
    Search(Search),
    /// Matrix product of integers.
    IntMatmul(IntMatmul),
    /// Several ops element by element.
    Fused(Fused),
    /// Rows one after another.
    JoinRows(JoinRows),
}

macro_rules! each_family {
    ($kernel:expr, $key:ident => $body:expr) => {
        match $kernel {
            Kernel::Pointwise($key) => $body,
            Kernel::Row($key) => $body,
            Kernel::HeldRow($key) => $body,
            Kernel::Matmul($key) => $body,
            Kernel::MatmulJoin($key) => $body,
            Kernel::MatmulSimd($key) => $body,
            Kernel::Reduce($key) => $body,
            Kernel::Gather($key) => $body,
            Kernel::Scatter($key) => $body,
            Kernel::Scan($key) => $body,
            Kernel::Attention($key) => $body,
            Kernel::AttentionSimd($key) => $body,
            Kernel::NormColumns($key) => $body,
            Kernel::ChannelNorm($key) => $body,
            Kernel::Sort($key) => $body,
            Kernel::Conv($key) => $body,
            Kernel::Pad($key) => $body,
            Kernel::Nll($key) => $body,
            Kernel::EmbeddingGradient($key) => $body,
            Kernel::Pool($key) => $body,
            Kernel::Resample($key) => $body,
            Kernel::Unfold($key) => $body,
            Kernel::Search($key) => $body,
            Kernel::IntMatmul($key) => $body,
            Kernel::Fused($key) => $body,
            Kernel::JoinRows($key) => $body,
        }
    };
}

/// The families' names, in one list that the compiler holds against the enum.
macro_rules! families {
    ($($family:ident)*) => {
        impl Kernel {
            /// Every family's name: the variants of [`Kernel`], in their order.
            pub const FAMILIES: &[&str] = &[$(stringify!($family),)*];

            /// The name of this kernel's family, one of [`Kernel::FAMILIES`].
            pub const fn family(&self) -> &'static str {
                match self { $(Self::$family(_) => stringify!($family),)* }
            }
        }
    };
}

families! {
    Pointwise Row HeldRow Matmul MatmulJoin MatmulSimd Reduce Gather Scatter Scan Attention AttentionSimd NormColumns
    ChannelNorm Sort Conv Pad Nll EmbeddingGradient Pool Resample Unfold Search IntMatmul Fused JoinRows
}

impl Kernel {
    /// A name that no other kernel has, for reports, error texts and the pipeline cache.
    pub fn label(&self) -> String {
        each_family!(self, key => key.label())
    }

    /// Number of buffer bindings.
    pub fn bindings(&self) -> u32 {
        each_family!(self, key => key.bindings())
    }

    /// Bytes of parameters passed with each dispatch.
    pub fn param_bytes(&self) -> u32 {
        each_family!(self, key => key.param_bytes())
    }

    /// Invocations of one workgroup.
    pub fn workgroup(&self) -> [u32; 3] {
        match self {
            Self::Matmul(key) => key.workgroup(),
            Self::Attention(key) => key.workgroup(),
            Self::AttentionSimd(key) => key.workgroup(),
            Self::Conv(key) => key.workgroup(),
            _ => [POINTWISE_GROUP, 1, 1],
        }
    }

    /// What the device must be able to do.
    pub fn requires(&self) -> Features {
        each_family!(self, key => key.requires())
    }

    /// The element type of cooperative factors, where the kernel has such: in the source they are matrices of `u32`.
    pub(crate) fn factors(&self) -> Option<DType> {
        match self {
            Self::Matmul(key) => key.factors(),
            _ => None,
        }
    }

    /// The kernel's source.
    pub fn wgsl(&self) -> String {
        each_family!(self, key => key.wgsl())
    }
}

/// Spreads groups over two dimensions; kernels put the index together as `y * groups.x + x` and check it.
fn spread(groups: u32) -> [u32; 3] {
    if groups <= MAX_GROUPS {
        return [groups, 1, 1];
    }
    let rows = groups.div_ceil(MAX_GROUPS);
    [groups.div_ceil(rows), rows, 1]
}
