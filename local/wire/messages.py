"""The v1 messages that are understood here: for each its fields in the order of their numbers.

`name=type`, with `!` required, `*` repeated, `%` a map, `:default` what the protocol declares, `enum(A|B)` the
values. `any` is passed on as it came. Only what Mesos itself would keep is listed: everything else is dropped.

Source: Mesos include/mesos/v1/{mesos,scheduler/scheduler,executor/executor}.proto; the numbers of ExecutorInfo and
what is below it give the order in which the real master prints two of them that differ.
"""

_STATES = (
    "TASK_STAGING|TASK_STARTING|TASK_RUNNING|TASK_KILLING|TASK_FINISHED|TASK_FAILED|TASK_KILLED|TASK_ERROR|"
    "TASK_LOST|TASK_DROPPED|TASK_UNREACHABLE|TASK_GONE|TASK_GONE_BY_OPERATOR|TASK_UNKNOWN"
)
_REASONS = "REASON_" + (
    "COMMAND_EXECUTOR_FAILED|CONTAINER_LAUNCH_FAILED|CONTAINER_LIMITATION|CONTAINER_LIMITATION_DISK|"
    "CONTAINER_LIMITATION_MEMORY|CONTAINER_PREEMPTED|CONTAINER_UPDATE_FAILED|"
    "MAX_COMPLETION_TIME_REACHED|EXECUTOR_REGISTRATION_TIMEOUT|EXECUTOR_REREGISTRATION_TIMEOUT|"
    "EXECUTOR_TERMINATED|EXECUTOR_UNREGISTERED|FRAMEWORK_REMOVED|GC_ERROR|INVALID_FRAMEWORKID|"
    "INVALID_OFFERS|IO_SWITCHBOARD_EXITED|MASTER_DISCONNECTED|RECONCILIATION|RESOURCES_UNKNOWN|"
    "AGENT_DISCONNECTED|AGENT_DRAINING|AGENT_REMOVED|AGENT_REMOVED_BY_OPERATOR|AGENT_REREGISTERED|"
    "AGENT_RESTARTED|AGENT_UNKNOWN|TASK_KILLED_DURING_LAUNCH|TASK_CHECK_STATUS_UPDATED|"
    "TASK_HEALTH_CHECK_STATUS_UPDATED|TASK_GROUP_INVALID|TASK_GROUP_UNAUTHORIZED|TASK_INVALID|"
    "TASK_UNAUTHORIZED|TASK_UNKNOWN"
).replace("|", "|REASON_")
_CAPABILITIES = (
    "REVOCABLE_RESOURCES|TASK_KILLING_STATE|GPU_RESOURCES|SHARED_RESOURCES|PARTITION_AWARE|MULTI_ROLE|"
    "RESERVATION_REFINEMENT|REGION_AWARE"
)
_SCHEDULER_CALLS = (
    "SUBSCRIBE|TEARDOWN|ACCEPT|DECLINE|ACCEPT_INVERSE_OFFERS|DECLINE_INVERSE_OFFERS|REVIVE|KILL|SHUTDOWN|"
    "ACKNOWLEDGE|ACKNOWLEDGE_OPERATION_STATUS|RECONCILE|RECONCILE_OPERATIONS|MESSAGE|REQUEST|SUPPRESS|"
    "UPDATE_FRAMEWORK"
)
_OPERATIONS = (
    "LAUNCH|LAUNCH_GROUP|RESERVE|UNRESERVE|CREATE|DESTROY|GROW_VOLUME|SHRINK_VOLUME|CREATE_DISK|DESTROY_DISK"
)

_BASICS = {
    "ID": "value!=string",
    "Double": "value!=double",
    "Duration": "nanoseconds!=int",
    "Label": "key!=string value=string",
    "Labels": "labels*=Label",
    "Range": "begin!=int end!=int",
    "Ranges": "range*=Range",
    "Set": "item*=string",
    "Allocation": "role=string",
    "Reservation": "principal=string labels=Labels role=string type=enum(STATIC|DYNAMIC)",
    "Persistence": "id!=string principal=string",
    "Volume": "container_path!=string host_path=string mode!=enum(RW|RO) image=any source=any",
    "DiskInfo": "persistence=Persistence volume=Volume source=any",
    "Resource": (
        "name!=string type!=enum(SCALAR|RANGES|SET|TEXT) scalar=Double ranges=Ranges set=Set role=string "
        "disk=DiskInfo "
        "reservation=Reservation revocable=any shared=any allocation_info=Allocation provider_id=ID "
        "reservations*=Reservation"
    ),
    "Capability": f"type=enum({_CAPABILITIES})",
    "Filters": "refuse_seconds=double:5.0",
    "KillPolicy": "grace_period=Duration",
}

_INFOS = {
    "FrameworkInfo": (
        "user!=string name!=string id=ID failover_timeout=double:0.0 checkpoint=bool:false role=string "
        "hostname=string principal=string webui_url=string capabilities*=Capability labels=Labels roles*=string "
        "offer_filters%=any"
    ),
    "URI": "value!=string executable=bool extract=bool:true cache=bool output_file=string",
    "Variable": "name!=string value=string type=enum(VALUE|SECRET):VALUE secret=any",
    "Environment": "variables*=Variable",
    "CommandInfo": (
        "uris*=URI environment=Environment value=string user=string shell=bool:true arguments*=string"
    ),
    "ExecutorInfo": (
        "executor_id!=ID data=bytes resources*=Resource command=CommandInfo framework_id=ID name=string "
        "source=string container=any discovery=any shutdown_grace_period=Duration labels=Labels "
        "type=enum(DEFAULT|CUSTOM)"
    ),
    "TaskInfo": (
        "name!=string task_id!=ID agent_id!=ID resources*=Resource executor=ExecutorInfo data=bytes "
        "command=CommandInfo health_check=any container=any labels=Labels discovery=any kill_policy=KillPolicy "
        "check=any max_completion_time=Duration limits%=Double"
    ),
    "TaskGroupInfo": "tasks*=TaskInfo",
    "IPAddress": "protocol=enum(IPv4|IPv6):IPv4 ip_address=string",
    "PortMapping": "host_port!=int container_port!=int protocol=string",
    "NetworkInfo": (
        "groups*=string labels=Labels ip_addresses*=IPAddress name=string port_mappings*=PortMapping"
    ),
    "ContainerID": "value!=string parent=ContainerID",
    "ContainerStatus": "network_infos*=NetworkInfo cgroup_info=any executor_pid=int container_id=ContainerID",
    "TaskStatus": (
        f"task_id!=ID state!=enum({_STATES}) data=bytes message=string agent_id=ID timestamp=double "
        "executor_id=ID healthy=bool source=enum(SOURCE_MASTER|SOURCE_AGENT|SOURCE_EXECUTOR) "
        f"reason=enum({_REASONS}) uuid=bytes labels=Labels container_status=ContainerStatus unreachable_time=any "
        "check_status=any limitation=any"
    ),
}

_SCHEDULER = {
    "Launch": "task_infos*=TaskInfo",
    "LaunchGroup": "executor!=ExecutorInfo task_group!=TaskGroupInfo",
    "Reserve": "resources*=Resource source*=Resource",
    "Unreserve": "resources*=Resource",
    "Volumes": "volumes*=Resource",
    "Operation": (
        f"type=enum({_OPERATIONS}) launch=Launch reserve=Reserve unreserve=Unreserve create=Volumes "
        "destroy=Volumes "
        "launch_group=LaunchGroup grow_volume=any shrink_volume=any create_disk=any destroy_disk=any id=ID"
    ),
    "Subscribe": "framework_info!=FrameworkInfo suppressed_roles*=string offer_constraints=any",
    "Accept": "offer_ids*=ID operations*=Operation filters=Filters",
    "Decline": "offer_ids*=ID filters=Filters",
    "InverseOffers": "inverse_offer_ids*=ID filters=Filters",
    "Roles": "roles*=string",
    "Kill": "task_id!=ID agent_id=ID kill_policy=KillPolicy",
    "Shutdown": "executor_id!=ID agent_id!=ID",
    "Acknowledge": "agent_id!=ID task_id!=ID uuid!=bytes",
    "AcknowledgeOperation": "agent_id=ID resource_provider_id=ID uuid!=bytes operation_id!=ID",
    "ReconcileTask": "task_id!=ID agent_id=ID",
    "Reconcile": "tasks*=ReconcileTask",
    "SchedulerMessage": "agent_id!=ID executor_id!=ID data!=bytes",
    "SchedulerCall": (
        f"framework_id=ID type=enum({_SCHEDULER_CALLS}) subscribe=Subscribe accept=Accept decline=Decline "
        "kill=Kill shutdown=Shutdown acknowledge=Acknowledge reconcile=Reconcile message=SchedulerMessage "
        "request=any accept_inverse_offers=InverseOffers decline_inverse_offers=InverseOffers revive=Roles "
        "suppress=Roles acknowledge_operation_status=AcknowledgeOperation reconcile_operations=any "
        "update_framework=Subscribe"
    ),
}

_EXECUTOR = {
    "Update": "status!=TaskStatus",
    "ExecutorSubscribe": "unacknowledged_tasks*=TaskInfo unacknowledged_updates*=Update",
    "ExecutorMessage": "data!=bytes",
    "ExecutorCall": (
        "executor_id=ID framework_id=ID type=enum(SUBSCRIBE|UPDATE|MESSAGE|HEARTBEAT) "
        "subscribe=ExecutorSubscribe update=Update message=ExecutorMessage"
    ),
}

MESSAGES = {**_BASICS, **_INFOS, **_SCHEDULER, **_EXECUTOR}
