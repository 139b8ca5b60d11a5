//! The kernel for any machine: one table of 256 products per factor.
//!
//! Works in blocks that stay in the first-level cache, since each output block is touched once
//! per input.

use super::Plan;
use crate::field::PRODUCTS;

const BLOCK: usize = 2048;

/// Multiplies; the caller checked the shapes.
pub fn multiply(plan: &Plan, inputs: &[&[u8]], outputs: &mut [&mut [u8]]) {
    let len = outputs[0].len();
    for start in (0..len).step_by(BLOCK) {
        let block = start..len.min(start + BLOCK);
        for (row, output) in outputs.iter_mut().enumerate() {
            let output = &mut output[block.clone()];
            output.fill(0);
            for (column, input) in inputs.iter().enumerate() {
                let products = &PRODUCTS[usize::from(plan.factors[column * plan.outputs + row].value)];
                for (sum, byte) in output.iter_mut().zip(&input[block.clone()]) {
                    *sum ^= products[usize::from(*byte)];
                }
            }
        }
    }
}
