//! The file system: a directory with the disks as files of fixed length, without a page cache of
//! their own.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags,
    ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use crate::disk::{Disk, Job};

const TTL: Duration = Duration::from_secs(3600);
/// Inode number of the first disk.
const FIRST: u64 = 2;

/// The directory.
pub struct Files {
    disks: Arc<Vec<Disk>>,
    len: u64,
}

impl Files {
    /// Disks of `len` bytes.
    pub fn new(disks: Arc<Vec<Disk>>, len: u64) -> Files {
        Files { disks, len }
    }

    fn disk(&self, inode: INodeNo) -> Option<&Disk> {
        self.disks.get(usize::try_from(u64::from(inode).checked_sub(FIRST)?).ok()?)
    }

    fn attributes(&self, inode: INodeNo) -> Option<FileAttr> {
        let is_directory = inode == INodeNo::ROOT;
        if !is_directory && self.disk(inode).is_none() {
            return None;
        }
        let (size, kind, perm) =
            if is_directory { (0, FileType::Directory, 0o755) } else { (self.len, FileType::RegularFile, 0o600) };
        Some(FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Files {
    fn lookup(&self, _request: &Request, _parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let index = name.to_str().and_then(|name| name.strip_prefix("disk")?.parse::<u64>().ok());
        match index.and_then(|index| self.attributes(INodeNo(FIRST + index))) {
            Some(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(inode) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _request: &Request, _inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        len: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.disk(inode) {
            Some(disk) => disk.give(Job::Read { offset, len, reply }),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn write(
        &self,
        _request: &Request,
        inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.disk(inode) {
            Some(disk) => disk.give(Job::Write { offset, data: data.to_vec(), reply }),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn fsync(&self, _request: &Request, inode: INodeNo, _handle: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        match self.disk(inode) {
            Some(disk) => disk.give(Job::Flush { reply }),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        for index in (0..self.disks.len() as u64).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            let name = format!("disk{index}");
            if reply.add(INodeNo(FIRST + index), index + 1, FileType::RegularFile, name) {
                break;
            }
        }
        reply.ok();
    }
}
