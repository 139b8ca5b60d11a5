//! The contract of a disk: what `platform::disk` promises, whichever engine lies below.

use bytes::Bytes;
use platform::Platform;
use platform::buffer::{BLOCK, Buffer};
use platform::disk::{Disk, DiskError, Open};

/// All of it, on an empty disk.
pub async fn holds(platform: Platform, disk: Disk) {
    files_open_as_asked(&disk).await;
    bytes_written_are_read(&disk).await;
    gather_writes_keep_the_order(&disk).await;
    many_operations_run_at_once(&platform, &disk).await;
    dropped_operations_leave_memory_sound(&platform, &disk).await;
    lengths_change(&disk).await;
    small_files_are_replaced(&disk).await;
    names_are_listed_renamed_and_removed(&disk).await;
    let space = disk.space().unwrap();
    assert!(space.available > 0 && space.available <= space.total);
}

async fn files_open_as_asked(disk: &Disk) {
    assert!(matches!(disk.open("absent", Open::Existing).await, Err(DiskError::NotFound { .. })));
    let file = disk.open("new", Open::CreateNew).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 0);
    assert!(matches!(disk.open("new", Open::CreateNew).await, Err(DiskError::AlreadyExists { .. })));
    disk.open("new", Open::Existing).await.unwrap();
    disk.open("new", Open::CreateOrExisting).await.unwrap();
    disk.open("other", Open::CreateOrExisting).await.unwrap();
    assert_eq!(disk.list().await.unwrap(), ["new", "other"]);
    disk.remove("new").await.unwrap();
    disk.remove("other").await.unwrap();
}

async fn bytes_written_are_read(disk: &Disk) {
    let file = disk.open("bytes", Open::CreateNew).await.unwrap();
    file.write_at(0, vec![pattern(1, 4 * BLOCK)]).await.unwrap();
    file.write_at(BLOCK as u64, vec![pattern(2, BLOCK)]).await.unwrap();
    let read = file.read_at(0, 4 * BLOCK).await.unwrap();
    assert_eq!(&read[..BLOCK], &pattern(1, 4 * BLOCK)[..BLOCK]);
    assert_eq!(&read[BLOCK..2 * BLOCK], &pattern(2, BLOCK)[..]);
    assert_eq!(&read[2 * BLOCK..], &pattern(1, 4 * BLOCK)[2 * BLOCK..]);
    file.flush().await.unwrap();
    assert_eq!(file.len().await.unwrap(), 4 * BLOCK as u64);

    // Short at the end, empty behind it, zeros in a hole.
    assert_eq!(file.read_at(2 * BLOCK as u64, 8 * BLOCK).await.unwrap().len(), 2 * BLOCK);
    assert_eq!(file.read_at(100 * BLOCK as u64, BLOCK).await.unwrap().len(), 0);
    file.write_at(8 * BLOCK as u64, vec![pattern(3, BLOCK)]).await.unwrap();
    assert!(file.read_at(5 * BLOCK as u64, BLOCK).await.unwrap().iter().all(|byte| *byte == 0));
    file.write_at(0, Vec::new()).await.unwrap();
    file.write_durable_at(9 * BLOCK as u64, vec![pattern(4, BLOCK), pattern(5, BLOCK)]).await.unwrap();
    assert_eq!(&file.read_at(10 * BLOCK as u64, BLOCK).await.unwrap()[..], &pattern(5, BLOCK)[..]);
    assert!(!file.is_empty().await.unwrap());

    let again = disk.open("bytes", Open::Existing).await.unwrap();
    assert_eq!(&again.read_at(8 * BLOCK as u64, BLOCK).await.unwrap()[..], &pattern(3, BLOCK)[..]);
    disk.remove("bytes").await.unwrap();
    // A handle outlives the name.
    assert_eq!(file.read_at(0, BLOCK).await.unwrap().len(), BLOCK);
}

async fn gather_writes_keep_the_order(disk: &Disk) {
    let file = disk.open("gather", Open::CreateNew).await.unwrap();
    let mut parts = vec![pattern(1, 16 * BLOCK), pattern(2, 3 * BLOCK).slice(5..BLOCK + 5)];
    parts.push(pattern(3, 2 * BLOCK));
    // A header before aligned data makes everything behind it lie askew.
    parts.push(Bytes::from(vec![4u8; 64]));
    parts.push(pattern(5, 2 * BLOCK));
    parts.push(Bytes::from(vec![6u8; BLOCK - 64]));
    parts.push(Bytes::new());
    parts.push(pattern(7, BLOCK));
    let expected = parts.concat();
    file.write_at(2 * BLOCK as u64, parts).await.unwrap();
    assert_eq!(&file.read_at(2 * BLOCK as u64, expected.len()).await.unwrap()[..], &expected[..]);

    // More parts than one device write takes.
    let parts: Vec<Bytes> = (0..2000u32).map(|index| pattern(index as u8, BLOCK)).collect();
    let expected = parts.concat();
    file.write_at(0, parts).await.unwrap();
    assert_eq!(&file.read_at(0, expected.len()).await.unwrap()[..], &expected[..]);
    disk.remove("gather").await.unwrap();
}

async fn many_operations_run_at_once(platform: &Platform, disk: &Disk) {
    let file = disk.open("many", Open::CreateNew).await.unwrap();
    let mut tasks = Vec::new();
    for index in 0..64u64 {
        let file = file.clone();
        tasks.push(platform.tasks().spawn(async move {
            let at = index * 2 * BLOCK as u64;
            for round in 0..4 {
                file.write_at(at, vec![pattern((index + round) as u8, 2 * BLOCK)]).await.unwrap();
                if index % 8 == 0 {
                    file.flush().await.unwrap();
                }
                let read = file.read_at(at, 2 * BLOCK).await.unwrap();
                assert_eq!(&read[..], &pattern((index + round) as u8, 2 * BLOCK)[..]);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    disk.remove("many").await.unwrap();
}

async fn dropped_operations_leave_memory_sound(platform: &Platform, disk: &Disk) {
    let file = disk.open("dropped", Open::CreateNew).await.unwrap();
    file.write_at(0, vec![pattern(9, 256 * BLOCK)]).await.unwrap();
    for round in 0..50u64 {
        let mut tasks = Vec::new();
        for index in 0..16u64 {
            let file = file.clone();
            tasks.push(platform.tasks().spawn(async move {
                if index % 2 == 0 {
                    drop(file.read_at(0, 256 * BLOCK).await);
                } else {
                    let at = index as usize * 16 * BLOCK;
                    let same = pattern(9, 256 * BLOCK).slice(at..at + BLOCK);
                    drop(file.write_at(at as u64, vec![same]).await);
                }
            }));
        }
        for _ in 0..round % 3 {
            platform::tasks::yield_now().await;
        }
        for task in &tasks {
            task.abort();
        }
        // Memory that came back too early would be handed out here and be overwritten by the device.
        let mut canaries: Vec<Buffer> = (0..16).map(|_| Buffer::zeroed(256 * BLOCK)).collect();
        for task in tasks {
            let _ = task.await;
        }
        assert_eq!(file.read_at(0, BLOCK).await.unwrap().len(), BLOCK);
        for canary in &mut canaries {
            assert!(canary.iter().all(|byte| *byte == 0), "freed memory was written to");
        }
    }
    assert_eq!(&file.read_at(0, 256 * BLOCK).await.unwrap()[..], &pattern(9, 256 * BLOCK)[..]);
    disk.remove("dropped").await.unwrap();
}

async fn lengths_change(disk: &Disk) {
    let file = disk.open("length", Open::CreateNew).await.unwrap();
    file.set_len(64 * BLOCK as u64).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 64 * BLOCK as u64);
    assert!(file.read_at(0, 64 * BLOCK).await.unwrap().iter().all(|byte| *byte == 0));
    file.write_at(0, vec![pattern(1, 4 * BLOCK)]).await.unwrap();
    file.set_len(2 * BLOCK as u64).await.unwrap();
    file.set_len(4 * BLOCK as u64).await.unwrap();
    let read = file.read_at(0, 4 * BLOCK).await.unwrap();
    assert_eq!(&read[..2 * BLOCK], &pattern(1, 4 * BLOCK)[..2 * BLOCK]);
    assert!(read[2 * BLOCK..].iter().all(|byte| *byte == 0), "cut bytes came back");
    file.flush().await.unwrap();
    disk.remove("length").await.unwrap();
}

async fn small_files_are_replaced(disk: &Disk) {
    assert_eq!(disk.read_file("small").await.unwrap(), None);
    disk.write_file("small", b"one").await.unwrap();
    assert_eq!(disk.read_file("small").await.unwrap().unwrap(), b"one");
    disk.write_file("small", &[7; 10_000]).await.unwrap();
    assert_eq!(disk.read_file("small").await.unwrap().unwrap(), [7; 10_000]);
    disk.write_file("small", b"").await.unwrap();
    assert_eq!(disk.read_file("small").await.unwrap().unwrap(), b"");
    assert_eq!(disk.list().await.unwrap(), ["small"]);
    disk.remove("small").await.unwrap();
}

async fn names_are_listed_renamed_and_removed(disk: &Disk) {
    for name in ["c", "a", "b"] {
        disk.write_file(name, name.as_bytes()).await.unwrap();
    }
    assert_eq!(disk.list().await.unwrap(), ["a", "b", "c"]);
    disk.rename("a", "d").await.unwrap();
    disk.rename("c", "b").await.unwrap();
    assert_eq!(disk.list().await.unwrap(), ["b", "d"]);
    assert_eq!(disk.read_file("b").await.unwrap().unwrap(), b"c");
    assert!(matches!(disk.rename("a", "e").await, Err(DiskError::NotFound { .. })));
    assert!(matches!(disk.remove("a").await, Err(DiskError::NotFound { .. })));
    disk.remove("b").await.unwrap();
    disk.remove("d").await.unwrap();
    assert!(disk.list().await.unwrap().is_empty());
}

/// A second handle cannot have a directory that the first has locked, until the first is gone.
pub fn a_second_lock_is_refused(first: Disk, second: &Disk) {
    first.try_lock().unwrap();
    first.try_lock().unwrap();
    assert!(matches!(second.try_lock(), Err(DiskError::Locked { .. })));
    drop(first);
    second.try_lock().unwrap();
}

/// Aligned bytes that differ from block to block and from `kind` to `kind`.
pub fn pattern(kind: u8, len: usize) -> Bytes {
    let mut buffer = Buffer::zeroed(len);
    for (index, byte) in buffer.iter_mut().enumerate() {
        *byte = kind.wrapping_mul(31) ^ (index as u8) ^ ((index / BLOCK) as u8).wrapping_mul(7);
    }
    buffer.freeze()
}
