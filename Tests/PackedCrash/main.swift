runPackedCrash()
