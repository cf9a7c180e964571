//! The system calls that rustix does not wrap safely, each with the reason why it is sound here.
//!
//! Everything in this file but [`share_heap`] runs in the helper (`helper.rs`), which is a process of one thread: nothing else
//! can hold a lock across a fork, observe a half-changed namespace, or race for a descriptor. No other file contains `unsafe`.
#![expect(
    unsafe_code,
    reason = "fork, unshare, seccomp, mount_setattr, close_range, one ioctl and mallopt have no safe wrapper"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::{
    mount::MountAttrFlags,
    net::{AddressFamily, SocketFlags, SocketType, socket_with},
    process::Pid,
    thread::{UnshareFlags, unshare_unsafe},
};
use seccompiler::BpfProgram;

/// Gives all threads of this process one heap. Otherwise glibc has one for each thread, up to eight for each core, and what a
/// thread has freed serves no other: half of the memory of a large build would be such leftovers. To be called by a program
/// before it starts a thread.
pub fn share_heap() {
    // SAFETY: the call sets a number of the allocator, which it reads when a thread asks for memory the first time.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Moves this process into new namespaces. With `NEWPID`, only its children are in the new one.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the danger that rustix names is CLONE_FILES, which is never passed; namespaces do not touch memory.
    Ok(unsafe { unshare_unsafe(flags) }?)
}

/// Forks; the child runs `body` and ends with the status that it returns. `body` must not return control to callers.
pub(super) fn fork(body: impl FnOnce() -> u8) -> io::Result<Pid> {
    // SAFETY: the process has one thread, so the child's copy of the heap and of every lock is consistent.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).unwrap_or(PANICKED);
            // SAFETY: ends the child without running the exit handlers and destructors that belong to the parent.
            unsafe { libc::_exit(status.into()) }
        }
        child => Pid::from_raw(child).ok_or_else(|| io::Error::other("fork returned a negative process id")),
    }
}

/// The status of a child that panicked, as Rust's own for `main`.
const PANICKED: u8 = 101;

/// Installs a seccomp filter for this process and its descendants, without setting `no_new_privs` (set-user-id programs
/// must keep working in a step), which needs `CAP_SYS_ADMIN` in the user namespace.
pub(super) fn install_filter(program: &BpfProgram) -> io::Result<()> {
    let length = u16::try_from(program.len()).map_err(|_| io::Error::other("the seccomp filter is too long"))?;
    let filter = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // As container runtimes do: before Linux 5.16 a filter without it would slow every branch of the step down.
    let flags = libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW;
    // SAFETY: `sock_filter` of seccompiler and of libc are the kernel's struct; the kernel copies `length` of them and
    // writes nothing, and `program` outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const filter) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Adds attributes to a mount and all mounts below it (`mount_setattr`, Linux 5.12). Unlike a remount it leaves the
/// attributes alone that an outer namespace has locked.
pub(super) fn add_mount_attributes(tree: BorrowedFd<'_>, attributes: MountAttrFlags) -> io::Result<()> {
    let change = libc::mount_attr { attr_set: u64::from(attributes.bits()), attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a terminated literal, the struct is the kernel's first version and its size is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const change,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Marks every descriptor but 0, 1 and 2 to be closed by the next exec.
pub(super) fn close_others_on_exec() -> io::Result<()> {
    // SAFETY: the call changes flags only; no descriptor that an owner holds is closed here.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Brings the loopback interface of a new network namespace up.
pub(super) fn bring_loopback_up() -> io::Result<()> {
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    // SAFETY: all zeros is a valid `ifreq`: integers, byte arrays and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *slot = libc::c_char::from_ne_bytes([*byte]);
    }
    #[expect(clippy::cast_possible_truncation, reason = "IFF_UP is 1")]
    {
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    }
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which lives until the call returns.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
