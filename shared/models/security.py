"""core/v1 security contexts of pods and containers."""

from __future__ import annotations

from shared.models.base import Int64, KubeModel, doc


class AppArmorProfile(KubeModel):
    """An AppArmor profile."""

    localhost_profile: str | None = doc("Name of a profile loaded on the node, for type Localhost.")
    type: str | None = doc("Localhost, RuntimeDefault or Unconfined.", required=True)


class SeccompProfile(KubeModel):
    """A seccomp filter."""

    localhost_profile: str | None = doc("Path of a profile on the node, for type Localhost.")
    type: str | None = doc("Localhost, RuntimeDefault or Unconfined.", required=True)


class Capabilities(KubeModel):
    """Linux capabilities to add to or take from the default set; names without CAP_, or ALL."""

    add: list[str] | None = doc("Capabilities to add.")
    drop: list[str] | None = doc("Capabilities to take away.")


class SELinuxOptions(KubeModel):
    """A SELinux label."""

    level: str | None = doc("Level of the label.")
    role: str | None = doc("Role of the label.")
    type: str | None = doc("Type of the label.")
    user: str | None = doc("User of the label.")


class WindowsSecurityContextOptions(KubeModel):
    """For Windows nodes."""

    gmsa_credential_spec: str | None = doc("Contents of the GMSA credential spec.")
    gmsa_credential_spec_name: str | None = doc("Name of the GMSA credential spec.")
    host_process: bool | None = doc("Whether to run as a host process container.")
    run_as_user_name: str | None = doc("The Windows user to run as.")


class SecurityContext(KubeModel):
    """Privileges of one container; what it says goes before what the pod says."""

    allow_privilege_escalation: bool | None = doc(
        "Whether a process may gain more privileges than its parent; false sets no_new_privs."
    )
    app_armor_profile: AppArmorProfile | None = doc("AppArmor profile of the container.")
    capabilities: Capabilities | None = doc("Linux capabilities to add or drop.")
    privileged: bool | None = doc("Run with all privileges: root in it is root on the host.")
    proc_mount: str | None = doc("How /proc is mounted: Default (parts are masked) or Unmasked.")
    read_only_root_filesystem: bool | None = doc("Whether the root file system is read-only.")
    run_as_group: Int64 | None = doc("GID of the main process.")
    run_as_non_root: bool | None = doc("Refuse to start as UID 0.")
    run_as_user: Int64 | None = doc("UID of the main process; else the image's user.")
    se_linux_options: SELinuxOptions | None = doc("SELinux label of the container.")
    seccomp_profile: SeccompProfile | None = doc("Seccomp filter of the container.")
    windows_options: WindowsSecurityContextOptions | None = doc("For Windows nodes.")


class Sysctl(KubeModel):
    """A kernel parameter of the pod's namespaces."""

    name: str | None = doc("Name of the parameter.", required=True)
    value: str | None = doc("Value of the parameter.", required=True)


class PodSecurityContext(KubeModel):
    """Privileges of all containers of a pod, unless one says otherwise."""

    app_armor_profile: AppArmorProfile | None = doc("AppArmor profile of the containers.")
    fs_group: Int64 | None = doc("GID that owns the volumes and is a supplemental group of every process.")
    fs_group_change_policy: str | None = doc("When volumes change owner: Always or OnRootMismatch.")
    run_as_group: Int64 | None = doc("GID of the main processes.")
    run_as_non_root: bool | None = doc("Refuse to start containers as UID 0.")
    run_as_user: Int64 | None = doc("UID of the main processes; else the image's user.")
    se_linux_change_policy: str | None = doc("How volumes get the SELinux label: MountOption or Recursive.")
    se_linux_options: SELinuxOptions | None = doc("SELinux label of the containers.")
    seccomp_profile: SeccompProfile | None = doc("Seccomp filter of the containers.")
    supplemental_groups: list[Int64] | None = doc("Further groups of the main processes.")
    supplemental_groups_policy: str | None = doc("Merge with the image's groups, or Strict.")
    sysctls: list[Sysctl] | None = doc("Kernel parameters of the pod.")
    windows_options: WindowsSecurityContextOptions | None = doc("For Windows nodes.")
