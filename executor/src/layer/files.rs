//! The files that are wanted of some layers -> files below one directory, on several threads.
//!
//! ```text
//! layers -> a thread for each: inflated ahead -> tar -> large files: written piece by piece
//!                                                   \-> small files, in batches -> threads that have no layer
//! ```
//!
//! To create a small file takes longer than to read it, so threads without a layer write what the others read. Where none is
//! free, the batch is written by the thread that read it: nobody who has something to do ever waits, one thread alone is enough,
//! and the batches in memory are few. What a path holds is decided where the layer is read, so it does not depend on time.

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::{self, Read, Write},
    mem,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    panic::resume_unwind,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

use super::{
    compress::read_ahead,
    error::{LayerError, Problem},
    place::{Place, write_failed},
    tar::TarReader,
    unpack::{UnpackLayer, Warning},
};
use crate::filesystem::{
    entry::{Action, FileContent, Kind, Metadata},
    path::TreePath,
};

/// Larger files are never in memory as a whole.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A batch that has this many bytes or files is full. The next one is of other directories mostly, so that two threads seldom
/// wait for the lock of one.
const BATCH_BYTES: usize = 128 << 10;
const BATCH_FILES: usize = 64;

/// Full batches that wait, for each thread that could take them.
const BATCHES_WAITING: usize = 2;

/// Threads that one layer keeps busy, beside the one that inflates it: more would wait for that.
const THREADS_PER_LAYER: usize = 3;

/// The files that are wanted of one layer, by their path in the layer.
pub(super) type Files<'a> = HashMap<&'a TreePath, Vec<Wanted<'a>>>;

/// A file that is to be made of one entry of a layer.
pub(super) struct Wanted<'a> {
    pub(super) path: TreePath,
    pub(super) metadata: &'a Metadata,
    pub(super) content: &'a FileContent,
}

/// One layer with the files that are wanted of it.
pub(super) type Job<'a> = (&'a UnpackLayer<'a>, Files<'a>);

/// Writes the wanted files of all layers on at most `threads` threads. Each layer that is being read has another one that
/// inflates.
pub(super) fn unpack_files(
    root: BorrowedFd<'_>,
    layers: VecDeque<Job<'_>>,
    threads: usize,
) -> Result<Vec<Warning>, LayerError> {
    let useful = layers.iter().map(|(_, files)| (files.len() / BATCH_FILES).clamp(1, THREADS_PER_LAYER)).sum();
    let threads = threads.min(useful).max(1);
    let tasks = Mutex::new(Tasks { layers, batches: VecDeque::new(), reading: 0 });
    let work = Work { threads, tasks, changed: Condvar::new(), failure: OnceLock::new() };
    let warnings = thread::scope(|scope| {
        let mut others = Vec::new();
        for number in 1..threads {
            let thread = thread::Builder::new().name(format!("unpack-{number}"));
            match thread.spawn_scoped(scope, || work.run(root)) {
                Ok(thread) => others.push(thread),
                Err(error) => work.fail(LayerError::Read(error)),
            }
        }
        let mut warnings = work.run(root);
        for other in others {
            warnings.extend(other.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        warnings
    });
    work.failure.into_inner().map_or(Ok(warnings), Err)
}

/// What the threads share.
struct Work<'a> {
    threads: usize,
    tasks: Mutex<Tasks<'a>>,
    /// Something can be taken, or nothing will come any more.
    changed: Condvar,
    /// The first thing that went wrong: everybody ends then.
    failure: OnceLock<LayerError>,
}

/// What there is to do.
struct Tasks<'a> {
    layers: VecDeque<Job<'a>>,
    batches: VecDeque<Batch<'a>>,
    /// Threads that have a layer, of which batches may come.
    reading: usize,
}

enum Task<'a> {
    Layer(Job<'a>),
    Batch(Batch<'a>),
}

impl<'a> Work<'a> {
    /// One thread's life.
    fn run(&self, root: BorrowedFd<'_>) -> Vec<Warning> {
        let all = || -> Result<Vec<Warning>, LayerError> {
            let mut place = Place::new(root)?;
            while let Some(task) = self.next() {
                match task {
                    Task::Layer(layer) => {
                        let _reading = Reading(self);
                        self.read(&mut place, layer)?;
                    }
                    Task::Batch(batch) => batch.write(&mut place)?,
                }
            }
            Ok(place.into_warnings())
        };
        all().unwrap_or_else(|error| {
            self.fail(error);
            Vec::new()
        })
    }

    /// Waits for the next thing to do; `None` when everything is done or something went wrong. Layers come first, so
    /// that as many as can be are inflated.
    fn next(&self) -> Option<Task<'a>> {
        let mut tasks = self.tasks();
        loop {
            if self.failure.get().is_some() {
                return None;
            }
            if let Some(layer) = tasks.layers.pop_front() {
                tasks.reading += 1;
                return Some(Task::Layer(layer));
            }
            if let Some(batch) = tasks.batches.pop_front() {
                return Some(Task::Batch(batch));
            }
            if tasks.reading == 0 {
                return None;
            }
            tasks = self.changed.wait(tasks).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads one layer and sees to it that what is wanted of it is written.
    fn read(&self, place: &mut Place, (layer, mut files): Job<'a>) -> Result<(), LayerError> {
        let blob = File::open(layer.blob).map_err(LayerError::Read)?;
        let (read, found) = read_ahead(blob, layer.compression, |stream| {
            let mut tar = TarReader::new(stream);
            let mut described = layer.contents.files.iter();
            let mut batch = Batch::default();
            while let Some(change) = tar.next()? {
                self.check()?;
                // The same path may come several times in a layer; the digest says which of them is meant. What is larger than
                // an index from elsewhere says is none of them: the room for it was never asked for.
                let Action::Put(_, Kind::File(found)) = &change.action else { continue };
                let Some((_, digest)) = described.next().filter(|(path, _)| *path == change.path) else { continue };
                let Some(files) = files.get_mut(&change.path) else { continue };
                let is_meant =
                    |file: &mut Wanted<'_>| file.content.digest == *digest && file.content.size == found.size;
                let wanted = files.extract_if(.., is_meant);
                if found.size <= SMALL_BYTES_MAX {
                    batch.add(&mut tar, wanted)?;
                } else {
                    // Somebody else can write these meanwhile.
                    self.pass_on(place, mem::take(&mut batch))?;
                    self.write_pieces(place, &mut tar, &wanted.collect::<Vec<_>>())?;
                }
                if batch.is_full() {
                    self.pass_on(place, mem::take(&mut batch))?;
                }
            }
            self.pass_on(place, batch)?;
            tar.finish()
        })
        .map_err(LayerError::Read)?;
        read?;
        let expected = &layer.contents.diff_id;
        if found != *expected {
            return Err(LayerError::WrongLayer { expected: expected.clone(), found });
        }
        match files.into_values().flatten().map(|file| file.path).min() {
            Some(path) => Err(Problem::NotInLayer.of(&path)),
            None => Ok(()),
        }
    }

    /// Leaves a batch to a thread that has no layer, or writes it if these have enough to do.
    fn pass_on(&self, place: &mut Place, batch: Batch<'a>) -> Result<(), LayerError> {
        let mut tasks = self.tasks();
        let others = self.threads - tasks.reading;
        if batch.files.is_empty() || tasks.batches.len() >= others * BATCHES_WAITING {
            drop(tasks);
            return batch.write(place);
        }
        tasks.batches.push_back(batch);
        drop(tasks);
        self.changed.notify_one();
        Ok(())
    }

    /// Writes one entry's content to every file that is made of it: one, but for layers that repeat a path.
    fn write_pieces<R: Read>(
        &self,
        place: &mut Place,
        tar: &mut TarReader<R>,
        wanted: &[Wanted<'_>],
    ) -> Result<(), LayerError> {
        let create = |wanted: &Wanted<'_>| place.file(&wanted.path, wanted.metadata);
        let mut files = wanted.iter().map(create).collect::<Result<Vec<_>, _>>()?;
        while !files.is_empty()
            && let Some(piece) = tar.content()?
        {
            self.check()?;
            for (file, wanted) in files.iter_mut().zip(wanted) {
                file.write_all(piece).map_err(write_failed(&wanted.path))?;
            }
        }
        for (file, wanted) in files.iter().zip(wanted) {
            place.finish(file.as_fd(), &wanted.path, wanted.metadata)?;
        }
        Ok(())
    }

    /// Fails if another thread has. Its error is the one that is told.
    fn check(&self) -> Result<(), LayerError> {
        match self.failure.get() {
            Some(_) => Err(LayerError::Read(io::Error::other("another thread failed"))),
            None => Ok(()),
        }
    }

    fn fail(&self, error: LayerError) {
        self.failure.get_or_init(|| error);
        // Whoever looked before sees it now: the lock is free only once they wait.
        drop(self.tasks());
        self.changed.notify_all();
    }

    fn tasks(&self) -> MutexGuard<'_, Tasks<'a>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread has a layer as long as this lives, even if it panics: the others wait for its batches.
struct Reading<'w, 'a>(&'w Work<'a>);

impl Drop for Reading<'_, '_> {
    fn drop(&mut self) {
        self.0.tasks().reading -= 1;
        self.0.changed.notify_all();
    }
}

/// Small files with their bytes.
#[derive(Default)]
struct Batch<'a> {
    files: Vec<(Wanted<'a>, Range<usize>)>,
    bytes: Vec<u8>,
}

impl<'a> Batch<'a> {
    /// Reads one entry's content for every file that is made of it.
    fn add<R: Read>(
        &mut self,
        tar: &mut TarReader<R>,
        wanted: impl Iterator<Item = Wanted<'a>>,
    ) -> Result<(), LayerError> {
        let mut wanted = wanted.peekable();
        if wanted.peek().is_none() {
            return Ok(());
        }
        let start = self.bytes.len();
        while let Some(piece) = tar.content()? {
            self.bytes.extend_from_slice(piece);
        }
        let content = start..self.bytes.len();
        self.files.extend(wanted.map(|wanted| (wanted, content.clone())));
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES || self.files.len() >= BATCH_FILES
    }

    fn write(&self, place: &mut Place) -> Result<(), LayerError> {
        for (wanted, content) in &self.files {
            place.whole_file(&wanted.path, wanted.metadata, &self.bytes[content.clone()])?;
        }
        Ok(())
    }
}
