//! Damage: the right bytes, or a refusal that names the place, or a cut of a last group that nothing proves.

use super::super::group::HEAD;
use super::super::record::{Commit, Record};
use super::super::segment::{FORMAT, HEADER};
use super::super::segments::{KnownLog, LogOptions, Opened, SegmentLog};
use super::super::{Head, Log, LogError, Seek};
use super::disk::MapDisk;
use super::only_numbered;
use super::{SMALL, STORE, dir, empty, fill, open, path, segment, served};
use crate::log::StoreId;
use crate::order::CommitNo;

/// Makes a log of several segments, not sealed, its last segment holding more than one group.
fn grown(groups: usize) -> (MapDisk, Vec<Commit>) {
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    let commits = fill(&open(&disk).unwrap(), &vec![2; groups], 1);
    (disk, commits)
}

fn names(disk: &MapDisk) -> Vec<u64> {
    let names = disk.files().into_keys().filter_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".log")?.to_owned();
        name.parse().ok()
    });
    names.collect()
}

fn opened(disk: &MapDisk) -> Result<(SegmentLog, Opened), LogError> {
    SegmentLog::open(&disk.shared(), dir(), SMALL, None)
}

fn corrupt_at(result: Result<(SegmentLog, Opened), LogError>) -> (u64, String) {
    match result {
        Err(LogError::Corrupt { commit, what, .. }) => (commit.0, what),
        other => panic!("{other:?}"),
    }
}

/// Returns the start of each group of a segment in use, and the end of the last one.
fn groups(disk: &MapDisk, first: u64) -> Vec<usize> {
    let (bytes, mut at) = (disk.file(&segment(first)), HEADER);
    let mut starts = vec![at];
    while let Some(head) = super::super::group::GroupHead::decode(&bytes[at..]) {
        if head.is_seal() {
            break;
        }
        at += head.size();
        starts.push(at);
    }
    starts
}

#[test]
fn torn_tail_is_cut_and_kept() {
    let (disk, commits) = grown(7);
    let last = *names(&disk).last().unwrap();
    let starts = groups(&disk, last);
    let [from, to] = starts[starts.len() - 2..] else { panic!("two groups") };
    for cut in from + 1..to {
        let disk = disk.copy();
        let mut bytes = disk.file(&segment(last));
        let torn = bytes[from..cut].to_vec();
        bytes[cut..].fill(0);
        disk.put(&segment(last), &bytes);
        let (log, opened) = opened(&disk).unwrap();
        let used = torn.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        // The group may be whole: the last bytes of it may have been zeros.
        let Some(kept) = opened.cut else {
            assert_eq!(served(&log).unwrap(), commits);
            continue;
        };
        assert_eq!((kept.at.0, kept.bytes), (commits.len() as u64 - 1, used as u64));
        assert_eq!(disk.file(&kept.kept_in), torn[..used]);
        assert_eq!(served(&log).unwrap(), commits[..commits.len() - 2]);
        let again = fill(&log, &[2], 77);
        drop(log);
        assert_eq!(served(&open(&disk).unwrap()).unwrap(), [&commits[..commits.len() - 2], &again].concat());
    }
}

#[test]
fn distinct_torn_tails_are_each_kept_once() {
    let (disk, commits) = grown(7);
    let last = *names(&disk).last().unwrap();
    let starts = groups(&disk, last);
    let at = starts[starts.len() - 2];
    let original = disk.file(&segment(last));
    for _ in 0..2 {
        disk.flip(&segment(last), at + 200, 3);
        opened(&disk).unwrap().1.cut.unwrap();
        names(&disk).into_iter().filter(|&name| name > last).for_each(|name| disk.delete(&segment(name)));
        disk.put(&segment(last), &original);
    }
    assert!(disk.files().contains_key(&path(&format!("cut-{:020}", commits.len() - 1))));
    assert!(!disk.files().contains_key(&path(&format!("cut-{:020}.2", commits.len() - 1))));
    disk.flip(&segment(last), at + 201, 3);
    opened(&disk).unwrap().1.cut.unwrap();
    assert!(disk.files().contains_key(&path(&format!("cut-{:020}.2", commits.len() - 1))));
}

#[test]
fn damaged_middle_group_is_refused_without_changes() {
    let (disk, _) = grown(7);
    let last = *names(&disk).last().unwrap();
    let starts = groups(&disk, last);
    let at = starts[starts.len() - 3];
    disk.flip(&segment(last), at + HEAD + 20, 1);
    let before = disk.files();
    let (commit, what) = corrupt_at(opened(&disk));
    assert_eq!(
        what,
        format!("no valid group here, and one written after it starts at commit {}", commit + 2)
    );
    assert_eq!(disk.files(), before);
}

#[test]
fn damaged_sealed_last_group_is_refused() {
    let (disk, commits) = grown(7);
    let log = open(&disk).unwrap();
    log.seal().unwrap();
    drop(log);
    let last = *names(&disk).last().unwrap();
    let starts = groups(&disk, last);
    disk.flip(&segment(last), starts[starts.len() - 2] + HEAD + 20, 1);
    assert_eq!(corrupt_at(opened(&disk)).0, commits.len() as u64 - 1);
}

#[test]
fn damaged_durable_last_group_is_refused() {
    let (disk, commits) = grown(7);
    let last = *names(&disk).last().unwrap();
    let starts = groups(&disk, last);
    disk.flip(&segment(last), starts[starts.len() - 2] + HEAD + 20, 1);
    let known = |commit| SegmentLog::open(&disk.copy().shared(), dir(), SMALL, only_numbered(commit));
    let damaged = commits.len() as u64 - 1;
    assert_eq!(corrupt_at(known(damaged)).0, damaged);
    known(damaged - 1).unwrap();
    // A head that another store knows says nothing about this one.
    let other = only_numbered(damaged).map(|(_, head)| (StoreId([1; 16]), head));
    SegmentLog::open(&disk.copy().shared(), dir(), SMALL, other).unwrap();
}

/// Copies of later groups inside event data do not prove that a later group was written.
#[test]
fn torn_record_embedding_later_groups_is_cut() {
    let (disk, _) = grown(12);
    let stolen = disk.file(&segment(*names(&disk).last().unwrap()));
    let other = MapDisk::default();
    empty(&other, &SMALL);
    let log = open(&other).unwrap();
    let mut commit = super::commit(&log.head(), 1, 3);
    commit.events[0].data = [&[0; 5][..], &stolen].concat();
    for shift in 0..8 {
        commit.events[0].stream = "x".repeat(shift);
        let disk = other.copy();
        let log = open(&disk).unwrap();
        log.append(&log.head(), std::slice::from_ref(&commit)).unwrap();
        drop(log);
        // Torn in the middle of the record: its head is whole.
        let size = disk.file(&segment(1)).len();
        let mut bytes = disk.file(&segment(1));
        bytes[HEADER + HEAD + 40..HEADER + HEAD + 60].fill(0);
        assert_eq!(size, bytes.len());
        disk.put(&segment(1), &bytes);
        assert!(opened(&disk).unwrap().1.cut.is_some());
    }
}

#[test]
fn truncated_segment_is_refused_or_rebuilt() {
    let (disk, _) = grown(8);
    for first in names(&disk) {
        let bytes = disk.file(&segment(first));
        for len in 0..bytes.len() {
            let disk = disk.copy();
            disk.put(&segment(first), &bytes[..len]);
            match opened(&disk) {
                Err(LogError::Corrupt { commit, .. }) => assert!(commit.0 >= first),
                // All groups are there, and only marks or trailer are not.
                Ok((log, opened)) => {
                    assert_eq!(opened.finished[0], CommitNo(first));
                    log.check(&mut |_, _| Ok(())).unwrap();
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn a_missing_segment_is_named() {
    let (disk, _) = grown(12);
    let names = names(&disk);
    assert!(names.len() >= 3);
    for (index, &first) in names.iter().enumerate() {
        let disk = disk.copy();
        disk.delete(&segment(first));
        let (commit, what) = corrupt_at(opened(&disk));
        assert_eq!(commit, first);
        let expected = match index {
            0 => format!("the first segment is missing: the log starts at commit {}", names[1]),
            _ => format!("the segment that starts at commit {first} is missing"),
        };
        assert!(what.starts_with(&expected), "{what}");
    }
}

#[test]
fn directory_without_segments_is_no_log() {
    let disk = MapDisk::default();
    disk.put_dir(dir());
    assert!(matches!(opened(&disk), Err(LogError::NotALog(_))));
}

#[test]
fn foreign_file_is_refused_and_unchanged() {
    let (disk, _) = grown(3);
    disk.put(&segment(1), &[b'x'; 4000]);
    let before = disk.files();
    assert!(matches!(opened(&disk), Err(LogError::NotALog(_))));
    assert_eq!(disk.files(), before);
}

#[test]
fn newer_format_is_refused_and_unchanged() {
    let (disk, _) = grown(3);
    let mut bytes = disk.file(&segment(1));
    bytes[8] = 2;
    disk.put(&segment(1), &bytes);
    disk.put(&path("next.creating"), &[1, 2, 3]);
    let before = disk.files();
    assert!(matches!(opened(&disk), Err(LogError::NewerFormat { is: 2, known: FORMAT })));
    assert_eq!(disk.files(), before);
}

#[test]
fn segment_of_other_store_is_refused() {
    let (disk, _) = grown(12);
    let other = MapDisk::default();
    other.put_dir(std::path::Path::new("/store"));
    SegmentLog::create(&other.shared(), dir(), super::StoreId([9; 16]), &SMALL).unwrap();
    fill(&open(&other).unwrap(), &[2; 12], 1);
    let second = names(&disk)[1];
    disk.put(&segment(second), &other.file(&segment(second)));
    assert_eq!(corrupt_at(opened(&disk)).0, second);
}

#[test]
fn segment_of_other_history_is_refused() {
    let (disk, _) = grown(12);
    let other = MapDisk::default();
    empty(&other, &SMALL);
    // The same sizes, other content.
    let log = open(&other).unwrap();
    let mut first = super::group(&log.head(), 2, 1);
    first[0].label = "OPEN 1".into();
    log.append(&log.head(), &first).unwrap();
    (1..12).for_each(|index| drop(fill(&log, &[2], 1 + 10 * index)));
    drop(log);
    assert_eq!(names(&disk), names(&other));
    let second = names(&disk)[1];
    disk.put(&segment(second), &other.file(&segment(second)));
    assert_eq!(corrupt_at(opened(&disk)).0, second);
}

#[test]
fn unrelated_files_are_left_alone() {
    let (disk, commits) = grown(3);
    for name in
        ["notes.txt", "0000000000000000001.log", "00000000000000000000.log", "+0000000000000000001.log"]
    {
        disk.put(&path(name), b"mine");
    }
    assert_eq!(served(&opened(&disk).unwrap().0).unwrap(), commits);
    assert_eq!(disk.file(&path("notes.txt")), b"mine");
}

#[test]
fn damaged_index_is_rebuilt_identically() {
    let (disk, commits) = grown(12);
    let bytes = disk.file(&segment(1));
    let end = groups(&disk, 1).pop().unwrap();
    for at in end..bytes.len() {
        let disk = disk.copy();
        disk.flip(&segment(1), at, (at % 8) as u8);
        let (log, opened) = opened(&disk).unwrap();
        // Damaged marks are noticed when they are read, and made again in memory alone.
        let trailer = at >= bytes.len() - super::super::segment::TRAILER;
        assert_eq!(opened.finished.contains(&CommitNo(1)), trailer);
        assert_eq!(served(&log).unwrap(), commits);
        if trailer {
            assert_eq!(disk.file(&segment(1)), bytes);
        }
    }
}

#[test]
fn flipped_bit_is_refused_cut_or_harmless() {
    let (disk, commits) = grown(7);
    let last = *names(&disk).last().unwrap();
    let starts = groups(&disk, last);
    let last_group = starts[starts.len() - 2];
    for first in names(&disk) {
        let len = disk.file(&segment(first)).len();
        for bit in 0..len * 8 {
            let disk = disk.copy();
            disk.flip(&segment(first), bit / 8, (bit % 8) as u8);
            match opened(&disk) {
                // A finished segment is not walked at open: damage in it is found by a read.
                Ok((log, Opened { cut: None, .. })) => match served(&log) {
                    Ok(served) => assert_eq!(served, commits),
                    Err(LogError::Corrupt { .. }) => assert!(first != last),
                    Err(other) => panic!("{other}"),
                },
                Ok((log, Opened { cut: Some(_), .. })) => {
                    assert!(first == last && bit / 8 >= last_group, "bit {bit} of segment {first}");
                    let served = served(&log).unwrap();
                    assert!(served == commits || served == commits[..commits.len() - 2]);
                }
                Err(LogError::Corrupt { .. }) => {}
                Err(LogError::NotALog(_)) => assert!(bit / 8 < 8),
                Err(LogError::NewerFormat { .. }) => assert!((8..12).contains(&(bit / 8))),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

#[test]
fn open_log_never_serves_flipped_bit() {
    let (disk, commits) = grown(7);
    let durable = Some((STORE, open(&disk.copy()).unwrap().head()));
    for first in names(&disk) {
        let end = groups(&disk, first).pop().unwrap();
        for at in HEADER..end {
            let disk = disk.copy();
            let (log, _) = SegmentLog::open(&disk.shared(), dir(), SMALL, durable).unwrap();
            disk.rot(&segment(first), at, (at % 8) as u8);
            for commit in &commits {
                match log.read(Seek::Commit(commit.commit), commit.commit, 1) {
                    Ok(page) => assert_eq!(page.records().next().unwrap().unwrap().to_commit(), *commit),
                    Err(LogError::Corrupt { commit: at, .. }) => {
                        assert!(at.0 >= first && at <= commit.commit)
                    }
                    Err(other) => panic!("{other}"),
                }
            }
            assert!(matches!(log.check(&mut |_, _| Ok(())), Err(LogError::Corrupt { .. })), "byte {at}");
        }
    }
}

#[test]
fn random_block_damage_never_panics() {
    let (disk, _) = grown(12);
    let files = disk.files();
    for seed in 0..600 {
        let mut random = super::disk::Random(seed);
        let disk = disk.copy();
        for _ in 0..1 + random.below(3) {
            let (path, bytes) = files.iter().nth(random.below(files.len() as u64) as usize).unwrap();
            let (_, other) = files.iter().nth(random.below(files.len() as u64) as usize).unwrap();
            let mut bytes = bytes.clone();
            let from = random.below(bytes.len() as u64) as usize & !7;
            let to = (from + random.below(400) as usize).min(bytes.len());
            match random.below(4) {
                0 => bytes[from..to].fill(0),
                1 => bytes[from..to].iter_mut().for_each(|byte| *byte = random.next() as u8),
                2 => drop(bytes.drain(from..to)),
                _ => {
                    let len = (to - from).min(other.len());
                    bytes[from..from + len].copy_from_slice(&other[..len]);
                }
            }
            disk.put(path, &bytes);
        }
        let before = disk.files();
        let refused = opened(&disk).is_err();
        assert!(!refused || disk.files() == before, "a refusal changes nothing");
        let _ = super::super::hostile::log(&disk.shared(), dir());
    }
}

#[test]
fn misplaced_record_is_never_served() {
    let disk = MapDisk::default();
    empty(&disk, &SMALL);
    let log = open(&disk).unwrap();
    for number in 0..30 {
        let head = log.head();
        let alike = Commit { label: format!("label {number}"), ..super::commit(&head, 1, 1) };
        log.append(&head, &[alike]).unwrap();
    }
    drop(log);
    let second = names(&disk)[1];
    let mut bytes = disk.file(&segment(second));
    let size = super::super::group::GroupHead::decode(&bytes[HEADER..]).unwrap().size();
    // The record of one group over that of the next one; both heads stay.
    let (from, to) = (HEADER + HEAD, HEADER + size + HEAD);
    bytes.copy_within(from..HEADER + size, to);
    disk.put(&segment(second), &bytes);
    let (log, _) = opened(&disk).unwrap();
    let wrong = CommitNo(second + 1);
    for seek in
        [Seek::Commit(wrong), Seek::Event(crate::order::Position(wrong.0)), Seek::Commit(CommitNo(second))]
    {
        match log.read(seek, CommitNo(u64::MAX), 1 << 20) {
            Err(LogError::Corrupt { commit, .. }) => assert_eq!(commit, wrong),
            other => panic!("{other:?}"),
        }
    }
    assert!(
        matches!(log.check(&mut |_, _| Ok(())), Err(LogError::Corrupt { commit, .. }) if commit == wrong)
    );
}

/// Makes the checksum at `crc` hold for the bytes of `from`, with `prefix` before them.
fn resum(bytes: &mut [u8], crc: usize, prefix: &[u8], from: std::ops::Range<usize>) {
    let sum = crc32c::crc32c_append(crc32c::crc32c(prefix), &bytes[from]);
    bytes[crc..crc + 4].copy_from_slice(&sum.to_le_bytes());
}

/// Sets a field of a random structure to `value` and makes its checksum hold again.
fn forge(bytes: &mut [u8], random: &mut super::disk::Random, value: u64) {
    let len = bytes.len();
    let set = |bytes: &mut [u8], at: usize, width: usize| {
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width])
    };
    match random.below(4) {
        0 => {
            set(bytes, [16, 32, 40, 48, 56, 88][random.below(6) as usize], 8);
            let start = bytes[..12].to_vec();
            resum(bytes, 12, &start, 16..HEADER);
        }
        1 if bytes.ends_with(b"TALLYEND") => {
            let at = len - super::super::segment::TRAILER;
            let (field, width) =
                [(16, 8), (24, 8), (32, 8), (40, 8), (48, 8), (80, 4), (84, 4)][random.below(7) as usize];
            set(bytes, at + field, width);
            // A mark, too.
            set(bytes, at - [12, 8, 4][random.below(3) as usize], 4);
            resum(bytes, at + 88, &[], at - 12..at);
            resum(bytes, at + 92, &[], at..at + 92);
        }
        2 => {
            let (field, width) =
                [(24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)][random.below(6) as usize];
            set(bytes, HEADER + field, width);
            resum(bytes, HEADER + 4, &[], HEADER + 8..HEADER + HEAD);
        }
        _ => {
            let at = HEADER + HEAD;
            let end = at + 8 + u32::from_le_bytes(super::super::group::array(&bytes[at..])) as usize;
            set(bytes, at + 8 + [0, 8, 16, 24, 29][random.below(5) as usize], 4);
            let prefix = [&STORE.0[..], &bytes[at..at + 4]].concat();
            resum(bytes, at + 4, &prefix, at + 8..end);
        }
    }
}

#[test]
fn forged_fields_with_checksums_never_panic() {
    let (disk, _) = grown(12);
    let names = names(&disk);
    for seed in 0..3000 {
        let mut random = super::disk::Random(seed);
        let disk = disk.copy();
        for _ in 0..1 + random.below(2) {
            let path = segment(names[random.below(names.len() as u64) as usize]);
            let mut bytes = disk.file(&path);
            let value = match random.below(6) {
                0 => 0,
                1 => u64::MAX,
                2 => u64::MAX - 1,
                3 => 1 << 31,
                4 => random.below(100),
                _ => random.next(),
            };
            forge(&mut bytes, &mut random, value);
            disk.put(&path, &bytes);
        }
        let before = disk.files();
        let refused = opened(&disk).is_err();
        assert!(!refused || disk.files() == before, "a refusal changes nothing");
        let _ = super::super::hostile::log(&disk.shared(), dir());
    }
}

#[test]
fn leftovers_of_a_crash_are_removed() {
    let (disk, commits) = grown(7);
    for name in ["next.creating", "cut.creating"] {
        disk.put(&path(name), b"half of something");
    }
    assert_eq!(served(&opened(&disk).unwrap().0).unwrap(), commits);
    assert!(disk.files().into_keys().all(|path| path.extension().is_some_and(|ending| ending == "log")));
}

#[test]
fn replacement_copy_supersedes_original_segment() {
    let (disk, commits) = grown(7);
    let last = *names(&disk).last().unwrap();
    let copy = disk.file(&segment(last));
    disk.put(&path(&format!("{last:020}.replacing")), &copy);
    for original in [Some(vec![0; 9000]), None] {
        let disk = disk.copy();
        match original {
            Some(bytes) => disk.put(&segment(last), &bytes),
            None => disk.delete(&segment(last)),
        }
        assert_eq!(served(&opened(&disk).unwrap().0).unwrap(), commits);
        assert!(disk.files().into_keys().all(|path| path.extension().is_some_and(|ending| ending == "log")));
    }
    disk.put(&path(&format!("{last:020}.replacing")), &[0; 9000]);
    let before = disk.files();
    assert!(opened(&disk).is_err());
    assert_eq!(disk.files(), before);
}

#[test]
fn half_prepared_next_segment_is_removed() {
    let (disk, commits) = grown(1);
    let log = open(&disk).unwrap();
    disk.put(&path("next.creating"), b"prepared by half");
    let more = fill(&log, &[2; 9], 3);
    assert_eq!(served(&log).unwrap(), [commits, more].concat());
}

#[test]
fn log_ending_before_known_head_needs_acceptance() {
    let (disk, commits) = grown(7);
    let (before, last) = (disk.files(), commits.len() as u64);
    let open = |accepted: u64| {
        let accepts = |_, end: &Head, record: Option<&Record<'_>>| {
            assert_eq!(record.map(Record::commit), Some(end.commit));
            end.commit.0 == accepted
        };
        let durable = Vec::from_iter(only_numbered(99));
        SegmentLog::open(&disk.shared(), dir(), SMALL, KnownLog { durable, accepts: Some(&accepts) })
    };
    let refused = open(last - 1).map(|(log, _)| log.head());
    assert!(
        matches!(refused, Err(LogError::EndsEarly { end, known }) if (end.commit.0, known.commit.0) == (last, 99))
    );
    assert_eq!(disk.files(), before, "nothing is changed");
    let (log, opened) = open(last).unwrap();
    assert_eq!((log.head().commit.0, opened.ends_early), (last, false));
    assert!(opened.rewritten.is_some(), "another history proves nothing");
}

#[test]
fn log_missing_last_segments_needs_acceptance() {
    let (disk, commits) = grown(7);
    let removed = *names(&disk).last().unwrap();
    disk.delete(&segment(removed));
    assert_eq!(corrupt_at(opened(&disk)).0, removed);
    let accepts = |_, end: &Head, _: Option<&Record<'_>>| end.commit.0 == removed - 1;
    let known = || KnownLog { durable: Vec::new(), accepts: Some(&accepts) };
    let (log, opened) = SegmentLog::open(&disk.shared(), dir(), SMALL, known()).unwrap();
    assert!(opened.ends_early);
    let kept = &commits[..removed as usize - 1];
    assert_eq!(served(&log).unwrap(), kept);
    let more = fill(&log, &[2; 9], 3);
    drop(log);
    let log = super::open(&disk).unwrap();
    assert_eq!(served(&log).unwrap(), [kept, &more].concat());
}

#[test]
fn options_out_of_range_are_bounded() {
    let disk = MapDisk::default();
    let options = LogOptions { segment_bytes_min: 0, segment_bytes: 0, ..SMALL };
    empty(&disk, &options);
    let (log, _) = SegmentLog::open(&disk.shared(), dir(), options, None).unwrap();
    let commits = fill(&log, &[1; 9], 1);
    assert_eq!(served(&log).unwrap(), commits);
    assert_ne!(log.head(), Head::empty(STORE));
}

#[test]
fn segment_size_fits_group_and_trailer() {
    let options = LogOptions::default();
    for group in [0, 1 << 10, (64 << 20) - HEADER as u64, 65 << 20] {
        let size = options.size(0, group);
        assert!(size >= HEADER as u64 + group + HEAD as u64 + 8, "{group}: {size}");
        assert!(size <= (64 << 20).max(HEADER as u64 + group + HEAD as u64 + 16), "{group}: {size}");
    }
}
