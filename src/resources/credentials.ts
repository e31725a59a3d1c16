import { create } from '@bufbuild/protobuf';
import { type Credentials, CredentialsSchema } from '../image/generated/credentials_pb.js';
import { taskKind } from '../objects/slice.js';
import type { ProcStatus } from '../procfs/status.js';
import { capData, capHeader } from '../sys/structs.js';
import { LINUX_CAPABILITY_VERSION_3, prctl } from '../sys/uapi.js';
import { type RemoteCalls, RemoteOutput } from '../tracee/remoteCalls.js';

const SECBIT_NO_SETUID_FIXUP = 4;
const DUMPABLE = 1;
/** Capabilities are numbered up to here in every kernel so far. */
const MAX_CAPABILITY = 63;

/**
 * Identity of a thread: ids, groups, capabilities, securebits, no-new-privs, and the two settings that a
 * change of credentials clears. Comes last, since nearly everything before needs privileges.
 * Source: credentials(7), capabilities(7).
 */
export const credentials = taskKind({
  kind: 'credentials',
  recordType: 35,
  scope: 'thread',
  schema: CredentialsSchema,

  checkpoint({ status, tid, process }, calls) {
    const securebits = calls.call('prctl', [prctl.PR_GET_SECUREBITS, 0, 0, 0, 0]);
    const parentDeathSignal = new RemoteOutput(4);
    calls.call('prctl', [prctl.PR_GET_PDEATHSIG, parentDeathSignal, 0, 0, 0]);
    const dumpable =
      tid === process.live ? calls.call('prctl', [prctl.PR_GET_DUMPABLE, 0, 0, 0, 0]) : undefined;
    return () => ({
      ...fromStatus(status),
      securebits: securebits.value,
      parentDeathSignal: parentDeathSignal.bytes.readInt32LE(0),
      ...(dumpable === undefined ? {} : { dumpable: dumpable.value }),
    });
  },

  validate(message) {
    if (message.uid === undefined) return { field: 'uid', problem: 'missing' };
    return message.gid === undefined ? { field: 'gid', problem: 'missing' } : undefined;
  },

  restart(message, calls, { inherited }) {
    const own = create(CredentialsSchema, fromStatus(inherited.status));
    if (message.securebits !== 0 || !sameIdentity(message, own)) changeIdentity(message, calls);
    if (message.noNewPrivileges) calls.call('prctl', [prctl.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0]);
    if (message.parentDeathSignal !== 0) {
      calls.call('prctl', [prctl.PR_SET_PDEATHSIG, message.parentDeathSignal, 0, 0, 0]);
    }
    // 2 (readable by root only) can't be asked for: it is what a change of identity leaves.
    if (message.dumpable !== undefined && message.dumpable <= DUMPABLE) {
      calls.call('prctl', [prctl.PR_SET_DUMPABLE, message.dumpable, 0, 0, 0]);
    }
  },
});

function fromStatus(status: ProcStatus) {
  return {
    uid: status.uid,
    gid: status.gid,
    groups: [...status.groups],
    ...status.capabilities,
    noNewPrivileges: status.noNewPrivileges,
  };
}

function sameIdentity(one: Credentials, other: Credentials): boolean {
  const text = (message: Credentials): string =>
    [
      ...[message.uid, message.gid].map((ids) => [ids?.real, ids?.effective, ids?.saved, ids?.fileSystem]),
      message.groups,
      [message.inheritable, message.permitted, message.effective, message.bounding, message.ambient],
    ].join(';');
  return text(one) === text(other);
}

function changeIdentity(message: Credentials, calls: RemoteCalls): void {
  const { uid, gid, groups } = message;
  if (uid === undefined || gid === undefined) return;
  const purpose = `becoming uid ${uid.effective}, gid ${gid.effective}`;
  // With this bit the ids change without any effect on the capabilities.
  calls.call('prctl', [prctl.PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0], { purpose });
  const list = Buffer.alloc(groups.length * 4);
  groups.forEach((group, index) => {
    list.writeUInt32LE(group, index * 4);
  });
  calls.call('setgroups', [groups.length, list], { purpose });
  calls.call('setresgid', [gid.real, gid.effective, gid.saved], { purpose });
  calls.call('setfsgid', [gid.fileSystem]);
  calls.call('setresuid', [uid.real, uid.effective, uid.saved], { purpose });
  calls.call('setfsuid', [uid.fileSystem]);
  for (let number = 0; number <= MAX_CAPABILITY; number++) {
    if (((message.bounding >> BigInt(number)) & 1n) === 0n) {
      // EINVAL beyond the last capability that this kernel has.
      calls.call('prctl', [prctl.PR_CAPBSET_DROP, number, 0, 0, 0], { mayFail: true });
    }
  }
  calls.call('prctl', [prctl.PR_SET_SECUREBITS, message.securebits, 0, 0, 0], { purpose });
  const header = capHeader.encode({ version: LINUX_CAPABILITY_VERSION_3, pid: 0 });
  calls.call('capset', [header, capabilityData(message)], { purpose: 'setting the capabilities' });
  for (let number = 0; number <= MAX_CAPABILITY; number++) {
    if (((message.ambient >> BigInt(number)) & 1n) === 1n) {
      calls.call('prctl', [prctl.PR_CAP_AMBIENT, prctl.PR_CAP_AMBIENT_RAISE, number, 0, 0]);
    }
  }
}

function capabilityData({ effective, permitted, inheritable }: Credentials): Buffer {
  const half = (shift: bigint): Buffer =>
    capData.encode({
      effective: Number((effective >> shift) & 0xffff_ffffn),
      permitted: Number((permitted >> shift) & 0xffff_ffffn),
      inheritable: Number((inheritable >> shift) & 0xffff_ffffn),
    });
  return Buffer.concat([half(0n), half(32n)]);
}
