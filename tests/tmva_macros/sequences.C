// Three recurrent networks on histograms of ten time steps, in the manner of ROOT's tutorial.
#include "TMVA/Factory.h"
#include "TMVA/DataLoader.h"
#include "TFile.h"

#define NOT_TO_BE_READ(x) \
   x->AddVariable("from a directive")

/* AddSignalTree(nothing, 1.0); */
void sequences(int nEvents = 2000, bool useGPU = false)
{
   const int nSteps = 10, nBins = 30;
   int nTrain = 0.8 * nEvents;
   int batch = 100;
   TString fileName = TString::Format("time_data_t%d_d%d.root", nSteps, nBins);
   std::vector<std::string> cells = {"RNN", "LSTM", "GRU"};
   TString device = (useGPU) ? "GPU" : "CPU";

   auto input = TFile::Open(fileName);
   TFile *out = TFile::Open("out.root", "RECREATE");
   TMVA::Factory *factory = new TMVA::Factory("Sequences", out, "!V:!Silent:AnalysisType=Classification");
   TMVA::DataLoader *loader = new TMVA::DataLoader("dataset");

   TTree *signal = (TTree *)input->Get("sgn");
   TTree *background = (TTree *)input->Get("bkg");
   loader->AddSignalTree(signal, 1.0);
   loader->AddBackgroundTree(background, 2.0);
   for (auto i = 0; i < nSteps; ++i) {
      loader->AddVariablesArray(Form("vars_time%d", i), nBins);
   }

   TCut cutS = "";
   TCut cutB("");
   TString prepare = TString::Format("nTrain_Signal=%d:nTrain_Background=%d:SplitMode=Random:SplitSeed=100:"
                                     "NormMode=NumEvents:!V:!CalcCorrelations",
                                     nTrain, nTrain);
   loader->PrepareTrainingAndTestTree(cutS, cutB, prepare);

   for (int i = 0; i < 3; ++i) {
      const char *cell = cells[i].c_str();
      TString input = TString::Format("InputLayout=%d|%d", nSteps, nBins);
      TString layers = TString("Layout=") + TString::Format("%s|10|%d|%d|0|1", cell, nBins, nSteps);
      layers += ",RESHAPE|FLAT,DENSE|64|TANH,LINEAR";
      TString training("TrainingStrategy=");
      training += TString::Format("LearningRate=1e-3,Momentum=0.0,Repetitions=1,ConvergenceSteps=5,"
                                  "BatchSize=%d,TestRepetitions=1,WeightDecay=1e-2,Regularization=None,"
                                  "MaxEpochs=%d,Optimizer=ADAM,DropConfig=0.0+0.+0.+0.", batch, 2 * 10);
      TString options("!H:V:ErrorStrategy=CROSSENTROPY:VarTransform=None:WeightInitialization=XAVIERUNIFORM:"
                      "ValidationSize=0.2:RandomSeed=1234");
      options.Append(":");
      options.Append(input);
      options.Append(":" + layers + ":");
      options.Append(training);
      options.Append(TString::Format(":Architecture=%s", device.Data()));
      TString title = "TMVA_" + TString(cell);
      factory->BookMethod(loader, TMVA::Types::kDL, title, options);
   }
   factory->BookMethod(loader, TMVA::Types::kBDT, "BDTG", "!H:!V:NTrees=100");
   factory->TrainAllMethods();
}
