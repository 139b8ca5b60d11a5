//! Small matrices over the field, and the generator matrix of a code.
//!
//! The generator is the Vandermonde matrix with the points 0, 1, 2, .. (row `r`, column `c` holds
//! `r^c`), multiplied by the inverse of its top square. Its top is then the identity, so the code
//! is systematic; any `data` of its rows are those of a Vandermonde matrix with distinct points
//! times an invertible matrix, so any `data` shards suffice. It is, byte for byte, the matrix of
//! the packages `reed-solomon-erasure` and of Backblaze's and klauspost's coders.
//!
//! Invariant: the generator is part of the stored format. It never changes.

use crate::field::{invert, multiply, power};

/// A matrix in row-major order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matrix {
    columns: usize,
    cells: Vec<u8>,
}

impl Matrix {
    /// The generator of `data` + `parity`: `data + parity` rows, `data` columns.
    pub fn generator(data: usize, parity: usize) -> Matrix {
        let vandermonde = Matrix::from_cells(data + parity, data, |row, column| power(row as u8, column));
        let top = vandermonde.select_rows(0..data);
        vandermonde.times(&top.inverse().expect("points of the top square are distinct"))
    }

    /// The matrix whose cells `cell(row, column)` gives.
    pub fn from_cells(rows: usize, columns: usize, cell: impl Fn(usize, usize) -> u8) -> Matrix {
        let cells = (0..rows * columns).map(|position| cell(position / columns, position % columns)).collect();
        Matrix { columns, cells }
    }

    /// Count of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Count of rows.
    pub fn rows(&self) -> usize {
        self.cells.len() / self.columns
    }

    /// One row.
    pub fn row(&self, row: usize) -> &[u8] {
        &self.cells[row * self.columns..(row + 1) * self.columns]
    }

    /// A matrix of the named rows, in the order named.
    pub fn select_rows(&self, rows: impl IntoIterator<Item = usize>) -> Matrix {
        let cells = rows.into_iter().flat_map(|row| self.row(row).iter().copied()).collect();
        Matrix { columns: self.columns, cells }
    }

    /// Product with `right`, which has as many rows as this has columns.
    pub fn times(&self, right: &Matrix) -> Matrix {
        assert_eq!(self.columns, right.rows(), "shapes of a product fit");
        Matrix::from_cells(self.rows(), right.columns, |row, column| {
            self.row(row)
                .iter()
                .enumerate()
                .fold(0, |sum, (inner, cell)| sum ^ multiply(*cell, right.row(inner)[column]))
        })
    }

    /// Inverse of a square matrix by Gauss and Jordan; `None` if it is singular.
    pub fn inverse(&self) -> Option<Matrix> {
        let size = self.columns;
        assert_eq!(self.rows(), size, "only a square has an inverse");
        let mut left = self.clone();
        let mut right = Matrix::from_cells(size, size, |row, column| u8::from(row == column));
        for pivot in 0..size {
            let found = (pivot..size).find(|row| left.row(*row)[pivot] != 0)?;
            let scale = invert(left.row(found)[pivot]);
            for side in [&mut left, &mut right] {
                side.swap_rows(found, pivot);
                side.scale_row(pivot, scale);
            }
            for row in (0..size).filter(|row| *row != pivot) {
                let factor = left.row(row)[pivot];
                left.add_row(pivot, factor, row);
                right.add_row(pivot, factor, row);
            }
        }
        Some(right)
    }

    fn swap_rows(&mut self, a: usize, b: usize) {
        for column in 0..self.columns {
            self.cells.swap(a * self.columns + column, b * self.columns + column);
        }
    }

    fn scale_row(&mut self, row: usize, factor: u8) {
        for cell in &mut self.cells[row * self.columns..(row + 1) * self.columns] {
            *cell = multiply(*cell, factor);
        }
    }

    /// Adds `factor` times the row `from` to the row `to`.
    fn add_row(&mut self, from: usize, factor: u8, to: usize) {
        for column in 0..self.columns {
            let term = multiply(self.cells[from * self.columns + column], factor);
            self.cells[to * self.columns + column] ^= term;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Matrix;

    fn identity(size: usize) -> Matrix {
        Matrix::from_cells(size, size, |row, column| u8::from(row == column))
    }

    #[test]
    fn top_of_every_generator_is_the_identity() {
        for data in 1..=32 {
            for parity in 0..=32 - data {
                assert_eq!(Matrix::generator(data, parity).select_rows(0..data), identity(data));
            }
        }
    }

    #[test]
    fn any_rows_of_a_generator_are_invertible() {
        let generator = Matrix::generator(4, 4);
        for mask in 0u32..256 {
            if mask.count_ones() == 4 {
                let chosen = generator.select_rows((0..8).filter(|row| mask >> row & 1 == 1));
                assert_eq!(chosen.times(&chosen.inverse().unwrap()), identity(4));
            }
        }
    }

    #[test]
    fn a_singular_matrix_has_no_inverse() {
        assert_eq!(Matrix::from_cells(3, 3, |_, column| column as u8 + 1).inverse(), None);
    }

    #[test]
    fn generator_bytes_are_pinned() {
        assert_eq!(Matrix::generator(4, 2).row(4), [27, 28, 18, 20]);
        assert_eq!(Matrix::generator(4, 2).row(5), [28, 27, 20, 18]);
    }
}
