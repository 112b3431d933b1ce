runPackedBench()
