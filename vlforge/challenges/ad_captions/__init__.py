"""The ad-caption contest (MGen-VL, PaddleMIX): its folder, rules, run and package."""
