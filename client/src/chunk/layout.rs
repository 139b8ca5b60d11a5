//! Where a chunk's logical bytes lie in its shards. Pure.
//!
//! Copies: shard byte = logical byte. Erasure with k data columns and cells of `cell` bytes: cell
//! number `n` of the chunk lies in column `n % k` at row `n / k`; parity columns hold, row by row,
//! the Reed-Solomon parity of the data columns.

/// A run of bytes in one data column.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ColumnRun {
    /// Column, from 0.
    pub column: usize,
    /// First shard byte.
    pub start: u64,
    /// One past the last shard byte.
    pub end: u64,
}

/// For every data column the smallest run that covers `start..end` of the logical bytes.
pub fn column_runs(data: usize, cell: u64, start: u64, end: u64) -> Vec<ColumnRun> {
    let mut runs: Vec<ColumnRun> = Vec::new();
    let mut at = start;
    while at < end {
        let number = at / cell;
        let column = (number % data as u64) as usize;
        let row = number / data as u64;
        let inside = at % cell;
        let upto = end.min((number + 1) * cell);
        let from = row * cell + inside;
        let to = from + (upto - at);
        match runs.iter_mut().find(|run| run.column == column) {
            Some(run) => run.end = to,
            None => runs.push(ColumnRun { column, start: from, end: to }),
        }
        at = upto;
    }
    runs
}

/// Copies what `run` of a column holds of `start..end` into `out` (which begins at `start`).
pub fn scatter(data: usize, cell: u64, run: ColumnRun, bytes: &[u8], start: u64, end: u64, out: &mut [u8]) {
    assert_eq!(bytes.len() as u64, run.end - run.start, "run and bytes disagree");
    let mut at = run.start;
    while at < run.end {
        let row = at / cell;
        let logical = (row * data as u64 + run.column as u64) * cell + at % cell;
        let len = (cell - at % cell).min(run.end - at);
        let (from, to) = (logical.max(start), (logical + len).min(end));
        if from < to {
            let source = (at - run.start + (from - logical)) as usize;
            let target = (from - start) as usize;
            let count = (to - from) as usize;
            out[target..target + count].copy_from_slice(&bytes[source..source + count]);
        }
        at += len;
    }
}

/// Gathers column `column` of whole stripes of `logical` bytes into `out`.
pub fn gather(data: usize, cell: usize, column: usize, logical: &[u8], out: &mut [u8]) {
    let stripe = data * cell;
    assert_eq!(logical.len() % stripe, 0, "whole stripes only");
    for (row, target) in out.chunks_exact_mut(cell).enumerate() {
        let at = row * stripe + column * cell;
        target.copy_from_slice(&logical[at..at + cell]);
    }
}

#[cfg(test)]
mod tests {
    use super::{column_runs, gather, scatter};

    #[test]
    fn gathered_columns_scatter_back_for_every_range() {
        let (data, cell) = (3usize, 8usize);
        let logical: Vec<u8> = (0..data * cell * 4).map(|at| at as u8).collect();
        let columns: Vec<Vec<u8>> = (0..data)
            .map(|column| {
                let mut out = vec![0; cell * 4];
                gather(data, cell, column, &logical, &mut out);
                out
            })
            .collect();
        for start in 0..logical.len() {
            for end in start + 1..=logical.len() {
                let mut out = vec![0xee; end - start];
                for run in column_runs(data, cell as u64, start as u64, end as u64) {
                    let bytes = &columns[run.column][run.start as usize..run.end as usize];
                    scatter(data, cell as u64, run, bytes, start as u64, end as u64, &mut out);
                }
                assert_eq!(out, &logical[start..end], "{start}..{end}");
            }
        }
    }
}
