//! Files in a folder that only their owner may read, written so that a crash leaves the old or the new content.
use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, FlockOperation, Mode, OFlags, flock, fstat, fsync, mkdirat, open, openat, renameat,
    statat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::error::{Error, Result};

/// Permission bits of everyone but the owner.
const OTHERS: u32 = 0o077;
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FOLDER_MODE: Mode = Mode::RWXU;
/// The file that is being written, before it gets its name.
const UNFINISHED: &str = ".new";

/// An open folder. Names in it are relative paths without `..`; no component may be a symbolic link.
pub(crate) struct Folder {
    path: PathBuf,
    directory: OwnedFd,
    /// Name of the file that is being written; the lock lets only one process write.
    unfinished: String,
    steps: Steps,
}

/// The steps that change the disk. Tests look at their order, and let the process die before any of them.
#[derive(Default)]
pub(crate) struct Steps {
    /// Steps until the process dies; `None` for never.
    left: Cell<Option<usize>>,
    #[cfg(test)]
    pub taken: std::rc::Rc<std::cell::RefCell<Vec<&'static str>>>,
}

impl Steps {
    /// Fails from the given step on, like a process that is no more.
    #[cfg(test)]
    pub fn dying_after(steps: usize) -> Self {
        Self { left: Cell::new(Some(steps)), ..Self::default() }
    }

    fn pass(&self, _what: &'static str) -> io::Result<()> {
        #[cfg(test)]
        self.taken.borrow_mut().push(_what);
        match self.left.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::other("died here")),
            Some(left) => {
                self.left.set(Some(left - 1));
                Ok(())
            }
        }
    }
}

impl Folder {
    /// Opens a folder of the user, which no one else may enter.
    pub fn open(path: &Path) -> Result<Self> {
        let path = &without_slash(path);
        let directory = open_directory(path)?;
        let status = fstat(&directory).map_err(|error| io_error("inspect", path, error))?;
        let mode = status.st_mode & 0o7777;
        if status.st_uid != geteuid().as_raw() {
            return Err(Error::Owner { path: path.to_owned(), uid: status.st_uid });
        }
        if mode & OTHERS != 0 {
            return Err(Error::OpenToOthers { path: path.to_owned(), mode });
        }
        let (path, unfinished) = (path.to_owned(), UNFINISHED.to_owned());
        Ok(Self { path, directory, unfinished, steps: Steps::default() })
    }

    /// Replaces the steps after which tests make the process die.
    pub fn with_steps(self, steps: Steps) -> Self {
        Self { steps, ..self }
    }

    /// Locks the folder itself against other processes, until it is dropped.
    pub fn lock(&self) -> Result<()> {
        match flock(&self.directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(Errno::WOULDBLOCK) => Err(Error::Locked(self.path.clone())),
            Err(error) => Err(io_error("lock", &self.path, error)),
        }
    }

    /// Returns where a file of this name is.
    pub fn at(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Passes a step that changes the disk beside this folder.
    pub fn step(&self, what: &'static str) -> Result<()> {
        self.steps.pass(what).map_err(|error| source(what, &self.path, error))
    }

    /// Reads a regular file of at most `max` bytes, or returns `None` if there is none.
    pub fn read(&self, name: &str, max: u64) -> Result<Option<Vec<u8>>> {
        let path = self.at(name);
        let (parent, last) = match self.parent(name) {
            Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => return Ok(None),
            parent => parent?,
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        match openat(parent.as_fd(), last, flags, Mode::empty()) {
            Ok(file) => read_regular(File::from(file), &path, max).map(Some),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(Error::Link(path)),
            Err(error) => Err(io_error("open", &path, error)),
        }
    }

    /// Returns true if anything, be it a link, has this name.
    pub fn exists(&self, name: &str) -> Result<bool> {
        let (parent, last) = self.parent(name)?;
        exists_at(parent.as_fd(), last, &self.at(name))
    }

    /// Makes a folder unless it exists.
    pub fn make_folder(&self, name: &str) -> Result<()> {
        let path = self.at(name);
        let (parent, last) = self.parent(name)?;
        let step = self.steps.pass("make").map_err(|error| source("make", &path, error));
        match step.and_then(|()| mkdirat(&parent, last, FOLDER_MODE).map_err(|e| io_error("make", &path, e)))
        {
            Ok(()) => {}
            Err(Error::Io { cause, .. }) if cause.kind() == io::ErrorKind::AlreadyExists => {
                return child(&parent, last, &path).map(drop);
            }
            Err(error) => return Err(error),
        }
        self.sync(&parent, &path)
    }

    /// Writes a file that does not exist yet.
    pub fn create(&self, name: &str, bytes: &[u8]) -> Result<()> {
        if self.exists(name)? {
            return Err(Error::Exists(self.at(name)));
        }
        self.replace(name, bytes)
    }

    /// Writes a file, or replaces it at once: the bytes are on disk before the name is, and the name before this
    /// returns.
    pub fn replace(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.at(name);
        let (parent, last) = self.parent(name)?;
        let result = self.write(bytes).map_err(|error| source("write", &path, error)).and_then(|()| {
            self.steps.pass("rename").map_err(|error| source("rename", &path, error))?;
            renameat(&self.directory, self.unfinished.as_str(), &parent, last)
                .map_err(|error| io_error("rename", &path, error))
        });
        if result.is_err() {
            // The first error is the one to tell; the next change removes what stays.
            let _ = self.clean();
        }
        result.and_then(|()| self.sync(&parent, &path))
    }

    /// Removes what a process that died was writing.
    pub fn clean(&self) -> Result<()> {
        let path = self.at(&self.unfinished);
        self.steps.pass("remove").map_err(|error| source("remove", &path, error))?;
        match unlinkat(&self.directory, self.unfinished.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(io_error("remove", &path, error)),
        }
    }

    /// Removes a file, and its folder if that is empty then. No file is no error.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.at(name);
        self.step("remove")?;
        let (parent, last) = self.parent(name)?;
        match unlinkat(&parent, last, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(io_error("remove", &path, error)),
        }
        if let Some((folder, _)) = name.rsplit_once('/') {
            let (parent, last) = self.parent(folder)?;
            // It is not empty, most often.
            let _ = unlinkat(&parent, last, AtFlags::REMOVEDIR);
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.steps.pass("open")?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&self.directory, self.unfinished.as_str(), flags, FILE_MODE)?);
        // In halves, so that tests can die between them.
        let (first, second) = bytes.split_at(bytes.len() / 2);
        self.steps.pass("write")?;
        file.write_all(first)?;
        self.steps.pass("write")?;
        file.write_all(second)?;
        self.steps.pass("sync")?;
        file.sync_all()
    }

    fn sync(&self, directory: &OwnedFd, path: &Path) -> Result<()> {
        self.steps.pass("sync folder").map_err(|error| source("sync the folder of", path, error))?;
        fsync(directory).map_err(|error| io_error("sync the folder of", path, error))
    }

    /// Returns the folder of a file, and the file's name in it.
    fn parent<'n>(&self, name: &'n str) -> Result<(OwnedFd, &'n str)> {
        let mut directory = self.directory.try_clone().map_err(|error| source("open", &self.path, error))?;
        let mut components: Vec<&str> = name.split('/').collect();
        let last = components.pop().unwrap_or_default();
        let mut path = self.path.clone();
        for component in components {
            path.push(component);
            directory = child(&directory, component, &path)?;
        }
        Ok((directory, last))
    }
}

/// Makes a new folder for [`Folder::open`], next to others.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    match rustix::fs::mkdir(path, FOLDER_MODE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(Error::Exists(path.to_owned())),
        Err(error) => Err(io_error("make", path, error)),
    }
}

/// Renames a folder and syncs the folder that holds it. An empty folder at the new path is replaced.
pub(crate) fn rename_folder(from: &Path, to: &Path) -> Result<()> {
    match rustix::fs::rename(from, to) {
        Ok(()) => sync_parent(to),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Error::Exists(to.to_owned())),
        Err(error) => Err(io_error("rename", to, error)),
    }
}

fn sync_parent(path: &Path) -> Result<()> {
    let parent = parent_of(path);
    let directory = open(parent, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    directory.and_then(fsync).map_err(|error| io_error("sync", parent, error))
}

/// Returns the path without slashes at its end, behind which the kernel follows a link even with O_NOFOLLOW.
pub(crate) fn without_slash(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Returns the folder that a path lies in.
pub(crate) fn parent_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes a file anywhere, mode 0600, atomically and synced, for its owner only. Refuses to follow a link, and to
/// replace a file unless `overwrite` is set.
pub fn export(path: &Path, bytes: &[u8], overwrite: bool) -> Result<()> {
    let not_a_file = || Error::FileType { path: path.to_owned(), expected: "a path of a file" };
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(not_a_file)?;
    let parent = parent_of(path);
    let directory = open_directory(parent)?;
    match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => {}
        Err(error) => return Err(io_error("inspect", path, error)),
        Ok(status) => match FileType::from_raw_mode(status.st_mode) {
            FileType::Symlink => return Err(Error::Link(path.to_owned())),
            FileType::RegularFile if overwrite => {}
            FileType::RegularFile => return Err(Error::Exists(path.to_owned())),
            _ => return Err(Error::FileType { path: path.to_owned(), expected: "a regular file" }),
        },
    }
    let unfinished = format!("{UNFINISHED}-{name}");
    let folder = Folder { path: parent.to_owned(), directory, unfinished, steps: Steps::default() };
    folder.clean()?;
    folder.replace(name, bytes)
}

/// Reads a regular file anywhere, of at most `max` bytes. Refuses to follow a link. Returns `None` if there is none.
pub fn read_file(path: &Path, max: u64) -> Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    match open(path, flags, Mode::empty()) {
        Ok(file) => read_regular(File::from(file), path, max).map(Some),
        Err(Errno::NOENT) => Ok(None),
        Err(Errno::LOOP) => Err(Error::Link(path.to_owned())),
        Err(error) => Err(io_error("open", path, error)),
    }
}

fn read_regular(file: File, path: &Path, max: u64) -> Result<Vec<u8>> {
    let metadata = file.metadata().map_err(|error| source("inspect", path, error))?;
    if !metadata.is_file() {
        return Err(Error::FileType { path: path.to_owned(), expected: "a regular file" });
    }
    // Enough room at once: a key must not leave copies behind.
    let mut bytes = Vec::with_capacity(metadata.len().min(max) as usize + 1);
    file.take(max + 1).read_to_end(&mut bytes).map_err(|error| source("read", path, error))?;
    if bytes.len() as u64 > max {
        return Err(Error::TooLarge { path: path.to_owned(), max });
    }
    Ok(bytes)
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

fn open_directory(path: &Path) -> Result<OwnedFd> {
    open(path, DIRECTORY, Mode::empty()).map_err(|error| directory_error(path, error))
}

fn child(directory: &OwnedFd, name: &str, path: &Path) -> Result<OwnedFd> {
    openat(directory, name, DIRECTORY, Mode::empty()).map_err(|error| directory_error(path, error))
}

fn directory_error(path: &Path, error: Errno) -> Error {
    // The kernel looks at O_DIRECTORY before it looks at O_NOFOLLOW (fs/namei.c, do_open).
    let is_link = path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink());
    match error {
        Errno::LOOP | Errno::NOTDIR if is_link => Error::Link(path.to_owned()),
        Errno::NOTDIR => Error::FileType { path: path.to_owned(), expected: "a folder" },
        error => io_error("open", path, error),
    }
}

fn exists_at(directory: impl AsFd, name: &str, path: &Path) -> Result<bool> {
    match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(error) => Err(io_error("inspect", path, error)),
    }
}

fn io_error(what: &'static str, path: &Path, error: Errno) -> Error {
    source(what, path, error.into())
}

fn source(what: &'static str, path: &Path, cause: io::Error) -> Error {
    Error::Io { what, path: path.to_owned(), cause }
}
