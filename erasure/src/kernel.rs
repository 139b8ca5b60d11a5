//! Products of a matrix with shards: the choice of instructions, made when the program runs.
//!
//! A [`Plan`] is a matrix whose entries are prepared for the kernels. Each kernel keeps up to four
//! outputs of a few vectors in registers and passes over all inputs once, so that every input byte
//! is loaded once for four outputs, and every output byte is stored once.
//!
//! ```text
//! for each block of 64 to 256 bytes         (then a partial vector at the end)
//!   for each input i                        load the block
//!     for each output r of the group        accumulator[r] += factor[i][r] * block
//!   store the accumulators
//! ```
//!
//! Invariant: all kernels give the same bytes for every length; the portable one is the reference.

mod portable;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod vector;

#[cfg(target_arch = "x86_64")]
mod x86;

#[cfg(target_arch = "aarch64")]
mod neon;

use crate::field::Factor;
use crate::matrix::Matrix;

/// A set of instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kernel {
    /// x86-64 with GFNI and AVX-512: 64 bytes per product.
    Gfni512,
    /// x86-64 with GFNI and AVX2: 32 bytes per product.
    Gfni256,
    /// x86-64 with AVX2: two shuffles of 32 bytes per product.
    Avx2,
    /// aarch64: two shuffles of 16 bytes per product.
    Neon,
    /// Tables, one byte at a time. Everywhere.
    Portable,
}

impl Kernel {
    /// The fastest kernel of this machine.
    pub fn best() -> Kernel {
        available_kernels()[0]
    }

    /// Name for people: `gfni-avx512`, `gfni-avx2`, `avx2`, `neon`, `portable`.
    pub fn name(self) -> &'static str {
        match self {
            Kernel::Gfni512 => "gfni-avx512",
            Kernel::Gfni256 => "gfni-avx2",
            Kernel::Avx2 => "avx2",
            Kernel::Neon => "neon",
            Kernel::Portable => "portable",
        }
    }

    /// Whether this machine has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni512 => x86::has_gfni512(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni256 => x86::has_gfni256(),
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => x86::has_avx2(),
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => neon::has_neon(),
            Kernel::Portable => true,
            #[allow(unreachable_patterns, reason = "which arms stand above depends on the machine")]
            _ => false,
        }
    }
}

/// Name of the kernel that [`crate::Coder::new`] takes on this machine.
pub fn kernel_name() -> &'static str {
    Kernel::best().name()
}

/// The kernels of this machine, fastest first; never empty.
pub fn available_kernels() -> Vec<Kernel> {
    [Kernel::Gfni512, Kernel::Gfni256, Kernel::Avx2, Kernel::Neon, Kernel::Portable]
        .into_iter()
        .filter(|kernel| kernel.is_available())
        .collect()
}

/// A matrix ready to be multiplied: one row per output, one column per input.
#[derive(Debug)]
pub struct Plan {
    outputs: usize,
    inputs: usize,
    /// Input after input; within one, output after output.
    factors: Vec<Factor>,
}

impl Plan {
    /// Prepares `matrix`.
    pub fn new(matrix: &Matrix) -> Plan {
        let (outputs, inputs) = (matrix.rows(), matrix.columns());
        let factors = (0..inputs)
            .flat_map(|input| (0..outputs).map(move |output| Factor::new(matrix.row(output)[input])))
            .collect();
        Plan { outputs, inputs, factors }
    }

    /// Writes the products into `outputs`. All slices have one length.
    ///
    /// # Panics
    /// If counts or lengths differ, or if this machine lacks the kernel.
    pub fn multiply(&self, kernel: Kernel, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
        assert_eq!(inputs.len(), self.inputs, "one slice per column");
        assert_eq!(outputs.len(), self.outputs, "one slice per row");
        let Some(len) = outputs.first().map(|output| output.len()) else { return };
        assert!(inputs.iter().all(|input| input.len() == len), "inputs are as long as outputs");
        assert!(outputs.iter().all(|output| output.len() == len), "outputs have one length");
        assert!(kernel.is_available(), "this machine lacks the kernel {}", kernel.name());
        // SAFETY (of the calls below): the instructions are there, the shapes were just checked.
        match kernel {
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni512 => unsafe { x86::multiply_gfni512(self, inputs, outputs) },
            #[cfg(target_arch = "x86_64")]
            Kernel::Gfni256 => unsafe { x86::multiply_gfni256(self, inputs, outputs) },
            #[cfg(target_arch = "x86_64")]
            Kernel::Avx2 => unsafe { x86::multiply_avx2(self, inputs, outputs) },
            #[cfg(target_arch = "aarch64")]
            Kernel::Neon => unsafe { neon::multiply_neon(self, inputs, outputs) },
            _ => portable::multiply(self, inputs, outputs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kernel, Plan, available_kernels};
    use crate::field::multiply;
    use crate::matrix::Matrix;

    /// Bytes that look random and are the same in every run.
    fn noise(seed: usize, len: usize) -> Vec<u8> {
        let mut state = seed as u64 * 0x9e37_79b9_7f4a_7c15 + 1;
        (0..len)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .collect()
    }

    #[test]
    fn portable_kernel_gives_the_products() {
        let matrix = Matrix::from_cells(3, 4, |row, column| (row * 50 + column * 77) as u8);
        let inputs: Vec<Vec<u8>> = (0..4).map(|input| noise(input, 5000)).collect();
        let mut outputs = vec![vec![0xaa; 5000]; 3];
        let input_slices: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
        let mut output_slices: Vec<&mut [u8]> = outputs.iter_mut().map(Vec::as_mut_slice).collect();
        Plan::new(&matrix).multiply(Kernel::Portable, &input_slices, &mut output_slices);
        for (row, output) in outputs.iter().enumerate() {
            for position in 0..5000 {
                let sum = (0..4).fold(0, |sum, input| sum ^ multiply(matrix.row(row)[input], inputs[input][position]));
                assert_eq!(output[position], sum);
            }
        }
    }

    #[test]
    fn every_kernel_equals_the_portable_one_at_every_length_and_alignment() {
        let lengths = (0..300).chain([511, 512, 513, 1000, 4096, 5555]);
        for len in lengths {
            for rows in [1, 2, 3, 4, 5, 7, 8, 9, 13] {
                let columns = 1 + (len + rows) % 9;
                let matrix = Matrix::from_cells(rows, columns, |row, column| noise(row * 31 + column + len, 1)[0]);
                let plan = Plan::new(&matrix);
                let skew = len % 7;
                let inputs: Vec<Vec<u8>> = (0..columns).map(|input| noise(input + len, len + skew)).collect();
                let input_slices: Vec<&[u8]> = inputs.iter().map(|input| &input[skew..]).collect();
                let run = |kernel| {
                    // Guard bytes on both sides show a store outside the slice.
                    let mut outputs = vec![vec![0xaa; len + 128]; rows];
                    let mut slices: Vec<&mut [u8]> =
                        outputs.iter_mut().map(|output| &mut output[64..64 + len]).collect();
                    plan.multiply(kernel, &input_slices, &mut slices);
                    outputs
                };
                let expected = run(Kernel::Portable);
                for kernel in available_kernels() {
                    assert!(run(kernel) == expected, "{} at {len} bytes, {rows} rows", kernel.name());
                }
            }
        }
    }
}
