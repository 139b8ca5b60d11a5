//! Reads and writes by blocking calls, for kernels that refuse io_uring. Called on a lane's threads.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use crate::buffer::Buffer;
use crate::disk::real::Durability;
use crate::disk::uring::vectors_of;

/// One pread into `buffer` from its byte `skip` on; `offset` is where the buffer's first byte lies.
pub(crate) fn read(file: &File, offset: u64, mut buffer: Buffer, skip: usize) -> (io::Result<usize>, Buffer) {
    let result = file.read_at(&mut buffer[skip..], offset + skip as u64);
    (result, buffer)
}

/// One pwritev2 of `parts` without their first `skip` bytes; `offset` is where the first of `parts` belongs.
pub(crate) fn write(
    file: &File,
    offset: u64,
    parts: Vec<Bytes>,
    skip: usize,
    durability: Durability,
) -> (io::Result<usize>, Vec<Bytes>) {
    let vectors = vectors_of(&parts, skip);
    let Ok(position) = i64::try_from(offset + skip as u64) else {
        return (Err(io::Error::from_raw_os_error(libc::EFBIG)), parts);
    };
    // SAFETY: the vectors point into parts, which outlive the call; the kernel only reads through them.
    let count = unsafe {
        let (descriptor, count) = (file.as_raw_fd(), vectors.len() as libc::c_int);
        libc::pwritev2(descriptor, vectors.as_ptr(), count, position, durability.flags())
    };
    let result = usize::try_from(count).map_err(|_| io::Error::last_os_error());
    (result, parts)
}
