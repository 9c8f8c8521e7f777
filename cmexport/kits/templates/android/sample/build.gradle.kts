import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.android)
}

android {
    namespace = "dev.cmexport.sample"
    compileSdk = 35

    defaultConfig {
        applicationId = "dev.cmexport.sample"
        minSdk = 24
        targetSdk = 35
        versionCode = 1
        versionName = "1"
        // An emulator on a PC wants x86_64; each of them adds about 12 MB.
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }

    androidResources { noCompress += "onnx" }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }
}

kotlin { compilerOptions { jvmTarget.set(JvmTarget.JVM_17) } }

dependencies {
    implementation(project(":kit"))
    implementation(libs.coroutines.android)
}
