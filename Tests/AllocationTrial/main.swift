// How often an engine asks for memory while it moves objects out and back: not once more for each run of 1 MiB. Only tests start it.
//
//   allocation-trial DIRECTORY PLAN
//
// DIRECTORY is an empty one on a tmpfs of 256 MiB. PLAN: plain, guarded (clients are strangers: calls on the pool's file go through its own thread), limited
// (a limit of resident memory), touched (a mapping is registered).
//
// It prints a line for each operation: its name, the allocations of a small object, of a large one, and by how many runs they differ; or of few objects, of
// many, and by how many they differ. Exit status 77: they can't be counted here.
runTrial(Array(CommandLine.arguments.dropFirst()))
