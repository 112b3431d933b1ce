if CommandLine.arguments.count >= 3, CommandLine.arguments[1] == "reopen" {
    try runReopenBench(
        CommandLine.arguments[2], pagesPerObject: CommandLine.arguments.count > 3 ? Int(CommandLine.arguments[3]) ?? 1024 : 1024)
} else {
    runPackedBench()
}
