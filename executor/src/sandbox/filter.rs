//! The seccomp filter of a step: a list of what it must not do goes in, a BPF program comes out.
//!
//! A step runs in a user namespace, where the kernel would give every capability to anyone who may make a namespace of
//! their own. So the calls that container runtimes refuse to processes without `CAP_SYS_ADMIN` are refused here, with
//! EPERM, and so are unusual sockets; everything else is allowed, since capabilities and namespaces already bound it.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
};

use super::error::{Failure, cannot};

/// Refused with any arguments.
const REFUSED: &[libc::c_long] = &[
    // Namespaces and mounts: with them a step would regain what its capabilities no longer hold.
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    // Handles reach files outside the root.
    libc::SYS_open_by_handle_at,
    // Large parts of the kernel that a build does not need.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    // Keyrings are not namespaced.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // The machine as a whole.
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_nfsservctl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_sysfs,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_uselib,
    #[cfg(target_arch = "x86_64")]
    libc::SYS__sysctl,
];

/// Flags of clone(2) that make a namespace.
const NAMESPACES: [libc::c_int; 7] = [
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];

/// The families of sockets that a step can make. Others reach the hypervisor whatever the network namespace (vsock), or load
/// a part of the kernel that a build does not need and that has been a way to root before (its crypto, for one).
const SOCKETS: [libc::c_int; 5] = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_PACKET];

/// Numbers from here on are the x32 calls of x86-64, which would pass a filter of the normal numbers by.
const X32_FIRST: u32 = 0x4000_0000;

/// Compiles the filter for the architecture of this program. Calls of another architecture kill the process.
pub(super) fn program() -> Result<BpfProgram, Failure> {
    let architecture = std::env::consts::ARCH.try_into().map_err(cannot("build the seccomp filter"))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    let namespaces = NAMESPACES.iter().map(|flag| {
        let flag = u64::from(flag.unsigned_abs());
        argument_is(0, SeccompCmpOp::MaskedEq(flag), flag)
    });
    rules.insert(libc::SYS_clone, namespaces.collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_socket, vec![other_sockets()?]);
    let refusal = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture);
    let body: BpfProgram = filter.and_then(BpfProgram::try_from).map_err(cannot("build the seccomp filter"))?;
    Ok(prologue().into_iter().chain(body).collect())
}

/// A socket of none of the usual families.
fn other_sockets() -> Result<SeccompRule, Failure> {
    let condition = |family: &libc::c_int| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, u64::from(family.unsigned_abs()))
    };
    let conditions: Result<Vec<_>, _> = SOCKETS.iter().map(condition).collect();
    conditions.and_then(SeccompRule::new).map_err(cannot("build the seccomp filter"))
}

fn argument_is(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompRule, Failure> {
    SeccompCondition::new(index, SeccompCmpArgLen::Dword, operator, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(cannot("build the seccomp filter"))
}

/// Answers ENOSYS to x32 calls, and to clone3, whose flags lie in memory that a filter cannot read: C libraries then fall
/// back to clone.
fn prologue() -> [sock_filter; 4] {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS of offset 0, `seccomp_data.nr`
    const JUMP_IF_GREATER_OR_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    #[expect(clippy::cast_possible_truncation, reason = "a small positive constant")]
    let clone3 = libc::SYS_clone3 as u32;
    [
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_IF_GREATER_OR_EQUAL, jt: 1, jf: 0, k: X32_FIRST },
        sock_filter { code: JUMP_IF_EQUAL, jt: 0, jf: 1, k: clone3 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs() },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_fits_into_one_program() {
        let program = program().unwrap();
        assert!(program.len() > REFUSED.len() && program.len() < 4096, "{} instructions", program.len());
    }
}
