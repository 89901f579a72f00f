use super::*;
use crate::disk::{Access, Disk};

use crate::testing::{ImagePolicy, Random, SimDisk};
use std::collections::BTreeMap;
use std::path::Path;

const FILE: &str = "/state.redb";

/// Content of a redb file: its length, and for each block the byte that fills it.
#[derive(Debug, Clone, Default)]
struct Image {
    len: u64,
    blocks: BTreeMap<u64, u8>,
}

/// A file of blocks with all images that it was synced with, by the word in the header.
struct Lab {
    disk: SimDisk,
    random: Random,
    blocks: Option<Blocks>,
    now: Image,
    synced: Vec<Image>,
    /// Image in which each block was written last, as an index into `synced`.
    written: BTreeMap<u64, usize>,
}

impl Lab {
    fn new(seed: u64) -> Self {
        let disk = SimDisk::new(seed);
        let file = disk.create_new(Path::new(FILE)).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let blocks = Blocks::open("state.redb", file).unwrap();
        blocks.set_len(2 * BLOCK).unwrap();
        let (now, random) = (Image { len: 2 * BLOCK, ..Image::default() }, Random::new(seed));
        let (synced, written) = (Vec::new(), BTreeMap::new());
        let mut lab = Self { disk, random, blocks: Some(blocks), synced, now, written };
        lab.sync().unwrap();
        lab
    }

    fn open(&self) -> io::Result<Blocks> {
        Blocks::open("state.redb", self.disk.open(Path::new(FILE), Access::Write)?)
    }

    fn sync(&mut self) -> io::Result<()> {
        let blocks = self.blocks.as_ref().unwrap();
        self.synced.push(self.now.clone());
        blocks.write(0, &(self.synced.len() as u64 - 1).to_le_bytes())?;
        blocks.sync_data()
    }

    fn close(&mut self) {
        self.sync().unwrap();
        self.blocks = None;
    }

    fn step(&mut self) -> io::Result<()> {
        let blocks = self.blocks.as_ref().unwrap();
        match self.random.below(8) {
            0 => {
                let most = if self.random.chance(0.2) { 2 * GROUP } else { 30 };
                let len = (2 + self.random.below(most)) * BLOCK;
                blocks.set_len(len)?;
                self.now.len = len;
                self.now.blocks.retain(|number, _| number * BLOCK < len);
            }
            1 | 2 => self.sync()?,
            _ => {
                let number = 1 + self.random.below(self.now.len / BLOCK - 1);
                let fill = 1 + self.random.below(200) as u8;
                self.written.insert(number, self.synced.len());
                self.now.blocks.insert(number, fill);
                blocks.write(number * BLOCK, &[fill; BLOCK as usize])?;
            }
        }
        Ok(())
    }

    /// Compares every block with the image that the header names, and returns its number.
    ///
    /// A block that was overwritten since may fail, and must not read as anything else.
    fn compare(&self, blocks: &Blocks) -> usize {
        let index = index_of(blocks);
        let image = &self.synced[index];
        assert_eq!(blocks.len(), image.len, "the length of image {index}");
        for number in 1..image.len / BLOCK {
            let mut data = [0; BLOCK as usize];
            let read = blocks.read(number * BLOCK, &mut data);
            match (image.blocks.get(&number), read) {
                (Some(fill), Ok(())) => assert_eq!(data, [*fill; BLOCK as usize], "block {number}"),
                (None, Ok(())) => panic!("block {number} was never written in image {index}"),
                (Some(_), Err(error)) => {
                    // If a sync was under way, the head may be on disk and blocks not.
                    let torn = usize::from(index + 1 == self.synced.len());
                    let since = self.written.get(&number).is_some_and(|written| written + torn > index);
                    assert!(since, "block {number} of image {index}: {error}");
                }
                (None, Err(_)) => {}
            }
        }
        index
    }
}

fn index_of(blocks: &Blocks) -> usize {
    let mut word = [0; 8];
    blocks.read(0, &mut word).unwrap();
    u64::from_le_bytes(word) as usize
}

#[test]
fn power_cut_keeps_last_synced_blocks() {
    let (mut torn, mut whole) = (0, 0);
    for seed in 0..400 {
        let mut lab = Lab::new(seed);
        let policy = ImagePolicy::ALL[seed as usize % ImagePolicy::ALL.len()];
        let cut = lab.disk.op_count() + 1 + lab.random.below(120);
        lab.disk.cut_at(cut, policy);
        while lab.step().is_ok() {}
        lab.blocks = None;
        lab.disk.restart();
        let blocks = lab.open().unwrap_or_else(|error| panic!("seed {seed} {policy:?}: {error}"));
        let index = lab.compare(&blocks);
        // The sync that was under way may have happened or not.
        assert!(index + 2 >= lab.synced.len(), "seed {seed}: image {index} of {}", lab.synced.len());
        if index + 1 == lab.synced.len() { whole += 1 } else { torn += 1 }
    }
    assert!(torn > 20 && whole > 20, "{torn} cut before the last sync, {whole} after it");
}

#[test]
fn file_recovers_after_repeated_power_cuts() {
    for seed in 0..60 {
        let mut lab = Lab::new(1000 + seed);
        for cut in 0..12 {
            let policy = ImagePolicy::ALL[lab.random.below(ImagePolicy::ALL.len() as u64) as usize];
            lab.disk.cut_at(lab.disk.op_count() + 1 + lab.random.below(40), policy);
            while lab.step().is_ok() {}
            lab.blocks = None;
            lab.disk.restart();
            let blocks = lab.open().unwrap_or_else(|error| panic!("seed {seed} cut {cut}: {error}"));
            let index = lab.compare(&blocks);
            // Images after this one are gone. Blocks written since may be damaged from now on.
            lab.now = lab.synced[index].clone();
            lab.synced.truncate(index + 1);
            lab.written
                .values_mut()
                .filter(|written| **written > index)
                .for_each(|written| *written = usize::MAX / 2);
            lab.blocks = Some(blocks);
        }
    }
}

#[test]
fn damage_is_error_or_earlier_sync() {
    let (mut refused, mut failed, mut right) = (0, 0, 0);
    for seed in 0..30 {
        let mut lab = Lab::new(seed);
        let mut old = Vec::new();
        for step in 0..120 {
            lab.step().unwrap();
            if step == 60 {
                old = lab.disk.read_file(FILE).unwrap();
            }
        }
        lab.close();
        let bytes = lab.disk.read_file(FILE).unwrap();
        for trial in 0..40 {
            let disk = lab.disk.fork(trial);
            let mut rotten = bytes.clone();
            let block = |random: &mut Random, len: usize| {
                let at = random.below((len as u64).div_ceil(BLOCK)) as usize * BLOCK as usize;
                at..(at + BLOCK as usize).min(len)
            };
            let to = block(&mut lab.random, bytes.len());
            match trial % 5 {
                0 => rotten[lab.random.below(bytes.len() as u64) as usize] ^= 1 << lab.random.below(8),
                1 => rotten[to].fill(0),
                2 => {
                    let from = block(&mut lab.random, bytes.len());
                    let len = from.len().min(to.len());
                    rotten.copy_within(from.start..from.start + len, to.start);
                }
                3 => {
                    let to = to.start.min(old.len())..to.end.min(old.len());
                    rotten[to.clone()].copy_from_slice(&old[to]);
                }
                _ => rotten.truncate(to.start),
            }
            disk.write_file(FILE, &rotten);
            let file = disk.open(Path::new(FILE), Access::Write).unwrap();
            match Blocks::open("state.redb", file) {
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "seed {seed} trial {trial}");
                    refused += 1;
                }
                Ok(blocks) => {
                    let image = &lab.synced[index_of(&blocks)];
                    let mut bad = false;
                    for number in 1..blocks.len() / BLOCK {
                        let mut data = [0; BLOCK as usize];
                        match (blocks.read(number * BLOCK, &mut data), image.blocks.get(&number)) {
                            (Ok(()), fill) => {
                                assert_eq!(Some(&data[0]), fill, "seed {seed} trial {trial} block {number}");
                            }
                            (Err(_), fill) => bad |= fill.is_some(),
                        }
                    }
                    if bad { failed += 1 } else { right += 1 }
                }
            }
        }
    }
    assert!(refused > 50 && failed > 50 && right > 50, "{refused} refused, {failed} failed, {right} right");
}

#[test]
fn file_of_other_role_is_refused() {
    let mut lab = Lab::new(1);
    (0..50).for_each(|_| lab.step().unwrap());
    lab.close();
    let file = lab.disk.open(Path::new(FILE), Access::Write).unwrap();
    let error = Blocks::open("checks.redb", file).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}
