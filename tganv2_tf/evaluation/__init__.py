"""What scores are made of: the classifiers, their features and the comparison of generated with real videos."""
